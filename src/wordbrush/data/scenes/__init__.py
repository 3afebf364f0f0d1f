"""The embedded world: captioned scenes of emoji with ground truth.

objects.txt, objects.py   the things: nouns, plurals, synonyms
glyphs.zip, glyphs.py     their pictures: sprites at any size, recoloured
scene.py                  what is in a picture, as a pure function of (split, seed, index)
captions.py               true sentences about it
render.py                 its pixels
"""

from wordbrush.data.scenes.captions import caption, plain_caption
from wordbrush.data.scenes.objects import ObjectType, object_types
from wordbrush.data.scenes.render import box, enlarged, render
from wordbrush.data.scenes.scene import Scene, SceneObject, held_out, sample_scene

__all__ = [
    "ObjectType",
    "Scene",
    "SceneObject",
    "box",
    "caption",
    "enlarged",
    "held_out",
    "object_types",
    "plain_caption",
    "render",
    "sample_scene",
]
