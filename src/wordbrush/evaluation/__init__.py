"""Does the picture show what the sentence says? Measured by networks that share nothing with the generator.

inspector/      the detector that ships with the package: pictures to sightings
prompts.py      the fixed set of prompts, with what each demands
judging.py      GenEval's rules: what is demanded against what is seen
distances.py    Fréchet distance, PSNR, retrieval
composition.py  the whole measurement, its result as data, its table and its sheet of failures
"""
