"""The shipped inspector: its weights (`model.safetensors`, float16), its config, and its use (`sightings.py`)."""

from wordbrush.evaluation.inspector.sightings import Sighting, Thing, TrainedInspector

__all__ = ["Sighting", "Thing", "TrainedInspector"]
