"""Pure networks: one architecture a file, its config dataclass beside it; no files, no losses, no devices, no seeds.

    attention.py   softmax attention, the fastest exact way for the sequence at hand
    config.py      reading and writing the config.json files of diffusers and transformers
    blocks.py      residual, down- and upsampling blocks; drawing weights for training from scratch
    time_embedding.py  sinusoids and the layers after them
    vae.py         AutoencoderKL: images to latents and back (Rombach 2022)
    tiny_vae.py    AutoencoderTiny, a small one in the latent space of a large one, for previews
    pixels.py      no autoencoder, where a model denoises pixels
    clip.py        CLIP text and image towers (Radford 2021)
    t5.py          the encoder of T5 v1.1 (Raffel 2020)
    unet.py        the conditional U-Net of Stable Diffusion 1, 2 and XL, and of classes; its parts in unet_*.py
    flux.py        the transformer of FLUX.1; its parts in flux_*.py
    patch_discriminator.py, lpips.py  what an autoencoder's pictures are judged by in training

State-dict keys are those of diffusers and transformers, so a folder of theirs loads with `strict=True`.
Every network is created under torch's default initialisation; `initialise(generator)` re-draws all its parameters
for training from scratch.
"""
