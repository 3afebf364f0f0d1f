"""Models in one file, in the layouts of the original code of Stable Diffusion, XL and FLUX.1.

kinds.py        files that are not models of ours
shapes.py       configs read off the shapes of tensors: autoencoder, text encoders, FLUX transformer
shapes_unet.py  the same for U-Nets
configs.py      what no shape tells: the published configs
components.py   the networks in a file: where they are and how their tensors are called
detect.py       what a file is, from its header
keymap.py       a two-way map between a file's tensors and a network's
names_*.py      the spellings of the original code
contents.py     a file's tensors against the networks it should hold
elsewhere.py    the parts that a file lacks, from other files and folders
tokenizers.py   where a file's tokenizers come from
read.py         a file to ModelParts
write.py        ModelParts to a file
"""
