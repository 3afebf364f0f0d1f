import math
from dataclasses import replace

import pytest
import torch
from tests.networks.checks import assert_initialise_draws_everything

from wordbrush.networks.clip import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
)

TEXT = CLIPTextConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=9,
    projection_dim=8,
    eos_token_id=39,
)
VISION = CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=8,
    patch_size=4,
    projection_dim=8,
)
BOTH = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8)


def _model() -> CLIPModel:
    model = CLIPModel(BOTH)
    model.initialise(torch.Generator().manual_seed(0))
    return model


def _ids(rows: int, length: int = 9) -> torch.Tensor:
    return torch.randint(0, 39, (rows, length), generator=torch.Generator().manual_seed(1))


def test_a_token_sees_no_later_one() -> None:
    model, ids = _model().text_model, _ids(1)
    changed = ids.clone()
    changed[0, 6] = (ids[0, 6] + 1) % 39
    before, after = model(ids).last_hidden_state, model(changed).last_hidden_state
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6:], before[:, 6:])


def test_the_pooled_state_is_that_of_the_first_end_token() -> None:
    ids = _ids(2)
    ids[0, 3:] = 39
    ids[1, 7] = 39
    out = _model().text_model(ids)
    torch.testing.assert_close(out.pooled, torch.stack([out.last_hidden_state[0, 3], out.last_hidden_state[1, 7]]))


def test_the_legacy_rule_pools_at_the_highest_id() -> None:
    config = replace(TEXT, eos_token_id=2)
    model, ids = CLIPTextModel(config), _ids(2) % 30
    ids[0, 4], ids[1, 2] = 39, 38
    out = model(ids)
    torch.testing.assert_close(out.pooled, torch.stack([out.last_hidden_state[0, 4], out.last_hidden_state[1, 2]]))


def test_hidden_states_end_before_the_final_norm() -> None:
    tower = _model().text_model
    out = tower(_ids(2))
    assert len(out.hidden_states) == 3
    torch.testing.assert_close(tower.final_layer_norm(out.hidden_states[-1]), out.last_hidden_state)


def test_a_text_encoder_takes_its_part_of_the_whole_model() -> None:
    model, ids = _model(), _ids(2)
    encoder = CLIPTextModel(TEXT)
    encoder.load_state_dict(model.text_encoder_state(), strict=True)
    torch.testing.assert_close(encoder(ids).last_hidden_state, model.text_model(ids).last_hidden_state)
    assert encoder(ids).text_embeds is None


def test_logits_are_scaled_cosines() -> None:
    model, images = _model(), torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    out = model(_ids(2), images)
    text, image = model.text_features(_ids(2)), model.image_features(images)
    cosine = torch.nn.functional.cosine_similarity(image[:, None], text[None], dim=2)
    assert math.exp(BOTH.logit_scale_init_value) == pytest.approx(1 / 0.07, rel=1e-4)
    torch.testing.assert_close(out.logits_per_image, cosine / 0.07, atol=1e-4, rtol=1e-4)


def test_sizes_that_do_not_fit_are_refused_with_their_numbers() -> None:
    with pytest.raises(ValueError, match=r"12 tokens.*at most 9"):
        _model().text_model(_ids(1, 12))
    with pytest.raises(ValueError, match=r"12x8.*8x8"):
        CLIPVisionModel(VISION)(torch.zeros(1, 3, 8, 12))


def test_initialise() -> None:
    assert_initialise_draws_everything(lambda: CLIPModel(BOTH))
    assert_initialise_draws_everything(lambda: CLIPTextModel(TEXT, projection=True))
    assert_initialise_draws_everything(lambda: CLIPVisionModel(VISION, projection=True))


def test_contrastive_training_tells_pairs_apart() -> None:
    model, ids = _model(), _ids(6)
    ids[:, -1] = 39
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    optimiser, target = torch.optim.Adam(model.parameters(), lr=3e-3), torch.arange(6)
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(ids, images).logits_per_image, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert torch.equal(model(ids, images).logits_per_image.argmax(1), target)
