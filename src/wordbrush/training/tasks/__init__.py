"""What is trained: a task a file, each with its part of the recipe in recipes.py (see `wordbrush.training.task`).

vae.py       pictures to latents and back       clip.py       which caption belongs to which picture
denoiser.py  latents from noise, by captions    latents.py    the latents and captions that it is trained on
upscaler.py  small pictures to large ones       expander.py   the beginnings of captions to whole ones
inspector.py the judge of composition
"""
