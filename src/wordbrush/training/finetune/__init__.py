"""Fine-tuning a model that exists: LoRA, DreamBooth, textual inversion and full, on one task with four ways to train.

recipes.py    what a recipe says under `train:`
model.py      opening a model for training, and what cannot be trained
captions.py   captions to token ids, with placeholders, and ids to conditioning with gradients
predict.py    the network that denoises, with a time for every row
trained.py    which parameters are trained: adapters, vectors, whole networks
task.py       the task: data, noise and loss
prior.py      class pictures that the model itself paints (DreamBooth's prior preservation)
painting.py   sample pictures while training
export.py     files: LoRA, embedding, model folder, each with its card
"""
