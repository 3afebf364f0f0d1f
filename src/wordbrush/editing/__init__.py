"""Ways to set up the loop.

setup.py   a request completed for a model: its size and times
start.py   image-to-image: begin part-way, from a picture; masked blending: hold what lies outside a mask
seen.py    what inpainting and editing networks see of the picture
canvas.py  the picture and mask of a request, in the forms that the others want
"""
