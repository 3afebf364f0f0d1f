"""Other people's files: the only place that knows their names and layouts.

safetensors_file.py  one .safetensors file: header checked before anything is read
weights.py           the weights of one network, in one file or several, into a module, strictly
parts.py             ModelParts: a model's networks, tokenizer and settings
diffusers_folder.py  a diffusers pipeline folder, read and written
inspect.py           what a folder is, from its headers alone
open.py              what the word after `-m` means: the embedded model, a folder, or a hub id
"""
