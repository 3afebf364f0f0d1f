"""Other people's files: the only place that knows their names and layouts.

one file
    safetensors_file.py   .safetensors: the header, checked before anything is read
    pickles.py            what torch.save wrote, read as data (pickle_data.py) and never run
    checkpoint.py         either of the two, told by its content
    mapped_file.py        tensors that are pages of a file
    json_file.py          the JSON files of a model folder
weights
    weight_files.py       which files of a folder hold a network's weights
    weights.py            those weights into a module, strictly
    stored.py             a network's weights as they were stored, to write a model back without loss
models
    parts.py              ModelParts: a model's networks, tokenizers and settings; fit.py, defaults.py: checks, defaults
    schedulers.py         what a scheduler_config.json says, also of a scheduler that is not known here
    diffusers_folder/     a diffusers pipeline folder, read and written
    single_file/          a model in one file, detected, read and written
    open.py               what the word after `-m` means
    convert.py            a model from one form into the other
beside models
    lora/                 LoRAs of every dialect; textual_inversion.py: embeddings
    by_name.py            both as prompts name them; adapted.py: LoRAs put on and taken off between runs
the library
    library.py            finding things by name, among what library_scan.py sees in the folders of library_folders.py
    hub.py                the Hugging Face cache, and downloads into it
    hashes.py             the hashes that name files, remembered
    inspect.py            what a file or folder is, from its headers; inspect_metadata.py: what it says of itself
    removal.py            taking things off the disk
    user_folders.py       where settings and caches lie
"""
