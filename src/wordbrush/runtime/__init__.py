"""How to run fast on this machine: the one place that decides device, number format and memory behaviour.

policy.py       Runtime: device, dtype and memory layout, chosen from what the machine can do
runners.py      the networks that denoise, each behind the same call
batching.py     how many pictures go through a network at once, without changing their bits
packing.py      layers whose weights lie as a CPU's kernels want them
packed_unet.py  the U-Net made of such layers;  packed_vae.py  the VAE's decoder
codec.py        the VAE as the pipeline uses it;  strips.py  large pictures through it, in little memory
offload.py      models larger than a GPU's memory
memory.py       the C library's allocator
"""
