"""A model as a diffusers pipeline folder, read and written.

index.py      model_index.json: which pipeline it is, which class each part is
networks.py   config.json and weights of each part that is a network
read.py       a folder to ModelParts
write.py      ModelParts to a folder that diffusers opens

    model_index.json                        the pipeline's class and its parts
    unet/ or transformer/, vae/,            config.json and weights
      text_encoder/, text_encoder_2/
    tokenizer/, tokenizer_2/                vocab.json and merges.txt, or tokenizer.json
    scheduler/                              scheduler_config.json
    wordbrush.json, words.json              optional, ours: the defaults of a request, the words seen in training
"""

from wordbrush.formats.diffusers_folder.index import model_index, read_index
from wordbrush.formats.diffusers_folder.networks import NETWORKS
from wordbrush.formats.diffusers_folder.read import read_folder
from wordbrush.formats.diffusers_folder.write import weights_hash, write_folder

__all__ = ["NETWORKS", "model_index", "read_folder", "read_index", "weights_hash", "write_folder"]
