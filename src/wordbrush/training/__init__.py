"""Training.

recipe.py     a run as data            run.py        from a recipe file to a finished folder
loop.py       the one loop             optimiser.py  AdamW, Muon
vae.py clip.py denoiser.py inspector.py              what a step's data and loss are, a task a file
tokenizer.py assemble.py export.py                   what is made without training, and how it is written
"""
