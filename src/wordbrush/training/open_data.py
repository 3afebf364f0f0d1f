"""From the table `data` of a recipe to the data set that it describes."""

from __future__ import annotations

from wordbrush.data.dataset import Dataset
from wordbrush.training.data_recipe import (
    CelebAData,
    CifarData,
    CocoData,
    DataRecipe,
    FolderData,
    IdxData,
    MixData,
    ScenesData,
    WebDatasetData,
)


def open_dataset(recipe: DataRecipe, *, skip_bad: bool | None = None) -> Dataset:
    """Opens what a data recipe names; pictures are read later.

    skip_bad: in place of the recipe's own.

    Raises:
        RequestError: it is not there, is empty or is not in the layout that it should have.
    """
    skip = recipe.skip_bad if skip_bad is None else skip_bad
    match recipe:
        case ScenesData():
            from wordbrush.data.scene_data import SceneChoice, SceneDataset

            choice = SceneChoice(
                split=recipe.split, seed=recipe.seed, count=recipe.count, kind=recipe.scene, things=recipe.things
            )
            return SceneDataset(choice)
        case FolderData():
            from wordbrush.data.folder import FolderDataset, Texts

            texts = Texts(source=recipe.text, column=recipe.column, template=recipe.template, caption=recipe.caption)
            return FolderDataset(recipe.path, texts, skip_bad=skip)
        case WebDatasetData():
            from wordbrush.data.webdataset import ShardRules, WebDataset

            rules = ShardRules(window=recipe.window, column=recipe.column, names=recipe.names, template=recipe.template)
            shards = (recipe.shards,) if isinstance(recipe.shards, str) else recipe.shards
            return WebDataset(shards, rules, skip_bad=skip)
        case IdxData():
            from wordbrush.data.idx import open_idx

            return open_idx(recipe.path, recipe.split, recipe.names, recipe.template)
        case CifarData():
            from wordbrush.data.cifar import open_cifar

            return open_cifar(recipe.path, recipe.split, coarse=recipe.coarse, template=recipe.template)
        case CelebAData():
            from wordbrush.data.celeba import CelebADataset, FaceCaptions

            words = FaceCaptions(tell=recipe.tell, start=recipe.start, absent=recipe.absent)
            return CelebADataset(recipe.path, recipe.split, words, skip_bad=skip)
        case CocoData():
            from wordbrush.data.coco import CocoDataset

            return CocoDataset(recipe.pictures, recipe.annotations, skip_bad=skip)
        case MixData():
            from wordbrush.data.mixed import MixedDataset

            parts = [open_dataset(part, skip_bad=skip) for part in recipe.parts]
            return MixedDataset(parts, recipe.repeats or (1,) * len(parts))
