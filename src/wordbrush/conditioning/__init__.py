"""From words to what the network is conditioned on.

prompt/           the prompt language as data: weights, schedules, AND, LoRA tags, chunks
tokenizer.py      CLIP's byte-pair tokenizer, read from and written to a model folder
t5_tokenizer.py   T5's unigram tokenizer, likewise; sentencepiece_model.py reads its older file
embeddings.py     textual inversion: which embeddings a text names, and their vectors
reading.py        a text as CLIP reads it: tokens with weights, in chunks
clip.py           one CLIP text encoder: chunks to hidden states
text.py           TextConditioner: Stable Diffusion 1 and 2
sdxl.py           SDXLConditioner: Stable Diffusion XL and its refiner
flux.py           FluxConditioner: FLUX.1
pooled.py         EmbeddingConditioner: models told CLIP's embedding of a whole text
classes.py        ClassConditioner, NoConditioner: models that know classes, or paint without a prompt
conditioning.py   what they give (Conditioning) and how they are asked (Conditioner, TextOptions)
of_model.py       which of them a model needs
report.py         what becomes of every word, as data; clip_report.py finds it out for the models that read CLIP
notes.py          the sentences of it that a user should know, for a whole request
prompted.py       prompts and a network to one guided denoiser
writing.py        prompts written out before all that: alternatives.py draws with wildcards.py, expansion.py goes on,
                  styles.py puts templates around; gpt2_tokenizer.py is what the expander reads with
"""
