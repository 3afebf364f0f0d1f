"""Training: recipes (`recipe.py`), the one loop (`loop.py`), and a task a file (`vae.py`, `clip.py`, `denoiser.py`, `inspector.py`)."""
