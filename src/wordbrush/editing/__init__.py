"""Ways to set up the loop other than from pure noise.

start.py  image-to-image: begin part-way, from a picture; masked blending: hold what lies outside a mask
"""
