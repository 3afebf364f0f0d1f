"""From words to what the network is conditioned on.

tokenizer.py   CLIP's byte-pair tokenizer, read from and written to a model folder
text.py        TextConditioner: prompts to embeddings, and what became of every word
"""
