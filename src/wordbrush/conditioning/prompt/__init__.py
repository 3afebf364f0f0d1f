r"""The prompt language of Stable Diffusion WebUI (A1111), as data.

syntax.py     (a:1.2) [a] \( \) BREAK   one text -> sections of weighted runs
schedule.py   [a:b:0.5] [a|b]           a prompt -> one text per step
tags.py       <lora:name:0.8>           a prompt -> its LoRAs, and the text without them
program.py    a AND b :1.2              all of the above: `PromptProgram`, what holds at each step
chunks.py     sections of tokens -> chunks of 75, cut at commas

`prompted.py` puts them together for the pipeline, in this order: a prompt becomes a `PromptProgram`; its LoRAs are
attached before anything is encoded; every text that some step needs (`texts`) is encoded once, to the length of the
longest; and at each step (`at`) the texts that hold are guided towards, those of one AND with their weights. A step's
text holds for the whole step, also in samplers that call the network twice a step.
"""
