"""Ways to set up the loop.

setup.py   a request completed for a model: its size and times; run.py, the loop that it becomes
joined.py  pictures of several requests in one loop
start.py   image-to-image: begin part-way, from a picture; masked blending: hold what lies outside a mask
seen.py    what inpainting and editing networks see of the picture
hires.py   high-resolution fix: a second loop on the enlarged result of the first
upscale.py pictures made larger, by networks and filters; upscaled_file.py, what the file then says
canvas.py  the picture and mask of a request, in the forms that the others want
frame.py   which part of the picture is worked on, at which size, and the way back
mask.py    masks drawn, grown and feathered
fill.py    what lies under a mask when the loop begins
again.py   the pictures that a request was made with, found again
presets.py     named values for the fields of a request that are not given
plots.py       one request in many forms: X/Y/Z plots and prompt matrices
"""
