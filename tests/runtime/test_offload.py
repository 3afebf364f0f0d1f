"""Models larger than a GPU's memory: which weights are there and when, planned from numbers, and done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import wordbrush
from wordbrush.errors import RequestError
from wordbrush.networks.clip import CLIPTextConfig, CLIPTextModel
from wordbrush.networks.flux import FluxConfig, FluxTransformer
from wordbrush.networks.t5 import T5Config, T5Encoder
from wordbrush.networks.unet import UNet, UNetConfig
from wordbrush.networks.vae import AutoencoderKL, AutoencoderKLConfig
from wordbrush.runtime import offload
from wordbrush.runtime.offload import WORKING_BYTES, Offload, groups, own_tensors, plan_offload
from wordbrush.runtime.policy import Runtime

CPU = torch.device("cpu")
GB = 10**9
SD15 = {"unet": 1_719_000_000, "text_encoder": 246_000_000, "vae": 167_000_000}
FLUX = {"transformer": 23_800_000_000, "text_encoder_2": 9_500_000_000, "text_encoder": 246_000_000, "vae": 168_000_000}
BLOCK = 263_000_000


@pytest.mark.parametrize(
    ("networks", "gigabytes", "kind"),
    [
        (SD15, 24, "none"), (SD15, 6, "none"), (SD15, 4, "model"), (SD15, 3, "layer"),
        (FLUX, 80, "none"), (FLUX, 32, "model"), (FLUX, 24, "layer"), (FLUX, 8, "layer"),
    ],
)  # fmt: skip
def test_the_plan_follows_from_the_free_memory(networks: dict[str, int], gigabytes: int, kind: str) -> None:
    plan = plan_offload(networks, BLOCK, gigabytes * GB)
    assert plan.kind == kind
    assert plan.note is not None
    assert f"the GPU has {gigabytes}.0 GB free" in plan.note
    if kind == "none":
        assert plan.budget is None
    else:
        assert plan.budget == gigabytes * GB - WORKING_BYTES
        assert (max(networks.values()) <= plan.budget) == (kind == "model")


def test_a_plan_may_be_asked_for() -> None:
    for kind in ("model", "layer"):
        plan = plan_offload(SD15, BLOCK, 80 * GB, kind)
        assert (plan.kind, plan.budget) == (kind, 80 * GB - WORKING_BYTES)
    assert plan_offload(SD15, BLOCK, 1 * GB, "none").budget is None
    assert plan_offload(SD15, BLOCK, None) == offload.Plan(kind="none", budget=None, note=None)


@pytest.mark.parametrize(
    ("free", "wanted", "words"),
    [
        (80 * GB, "all", "'all' is unknown; there are 'auto', 'none', 'model', 'layer'"),
        (None, "model", "only for device='cuda'"),
        (3 * GB, "model", "2.1 GB of it for painting.*needs 1.7 GB for weights; use offload='layer'"),
        (2 * GB, "auto", "offload='layer' needs 0.3 GB for weights; use device='cpu'"),
    ],
)
def test_what_cannot_be_is_refused(free: int | None, wanted: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        plan_offload(SD15, BLOCK, free, wanted)


def unet() -> UNet:
    return UNet(
        UNetConfig(
            sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=2, norm_num_groups=8,
        )
    )  # fmt: skip


def every_network() -> dict[str, nn.Module]:
    """One of each kind that a model is made of, small."""
    clip = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=16, max_position_embeddings=8, bos_token_id=0, eos_token_id=49,
    )  # fmt: skip
    flux = FluxConfig(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=False, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    t5 = T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    networks = {
        "unet": unet(),
        "transformer": FluxTransformer(flux),
        "text_encoder": CLIPTextModel(clip, projection=True),
        "text_encoder_2": T5Encoder(t5),
        "vae": AutoencoderKL(AutoencoderKLConfig(block_out_channels=(16, 32), norm_num_groups=8)),
    }
    return {name: network.eval().requires_grad_(False) for name, network in networks.items()}


def run(networks: dict[str, nn.Module], device: torch.device = CPU) -> list[Tensor]:
    """What each gives, every way in which a pipeline calls it."""
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device)

    ids = torch.tensor([[0, 5, 7, 49]])  # left on the CPU: whoever makes them asks the weights where they are
    transformer, vae = networks["transformer"], networks["vae"]
    found = [networks["text_encoder"](ids).last_hidden_state, networks["text_encoder_2"](ids)]
    context = networks["unet"].prepare_context(drawn(1, 4, 16))
    found += [networks["unet"](drawn(1, 4, 8, 8), torch.tensor([7.0], device=device), context) for _ in range(2)]
    positions = torch.zeros(4, 3), torch.zeros(5, 3)
    found.append(
        transformer(
            drawn(1, 4, 16), torch.tensor([0.5], device=device), drawn(1, 5, 16), pooled=drawn(1, 16),
            positions_image=positions[0], positions_text=positions[1],
        )
    )  # fmt: skip
    return [*found, vae.encode(drawn(1, 3, 16, 16)).mean, vae.decode(drawn(1, 4, 8, 8))]


def total(networks: dict[str, nn.Module]) -> int:
    return sum(parameter.nbytes for network in networks.values() for parameter in network.parameters())


@pytest.mark.parametrize("divided", [False, True], ids=["model", "layer"])
@torch.inference_mode()
def test_results_are_the_same_and_the_budget_is_kept(monkeypatch: pytest.MonkeyPatch, divided: bool) -> None:
    monkeypatch.setattr(offload, "BLOCK_BYTES", 4096)
    networks = every_network()
    wanted = run(networks)
    places = {name: [p.data_ptr() for p in network.parameters()] for name, network in networks.items()}
    largest = max(sum(p.nbytes for p in network.parameters()) for network in networks.values())
    budget = largest // 2 if divided else largest
    held: list[int] = []
    mover = Offload(networks, CPU, budget, divided=divided)
    bring = Offload._bring
    monkeypatch.setattr(Offload, "_bring", lambda self, block: (bring(self, block), held.append(self.held)))
    found = run(networks)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    vae = sum(p.nbytes for p in networks["vae"].parameters())
    assert max(held) <= (max(budget, vae) if divided else budget)  # the VAE is never divided
    assert 0 < mover.held < total(networks)
    mover.clear()
    assert mover.held == 0
    for name, network in networks.items():  # nothing was copied back
        assert [p.data_ptr() for p in network.parameters()] == places[name]


@torch.inference_mode()
def test_what_fits_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for all but a little, a step copies only that little, not everything again."""
    monkeypatch.setattr(offload, "BLOCK_BYTES", 2048)
    network = unet().eval().requires_grad_(False)
    size = sum(parameter.nbytes for parameter in network.parameters())
    mover = Offload({"unet": network}, CPU, size * 4 // 5, divided=True)
    x, time, context = torch.randn(1, 4, 8, 8), torch.tensor([3.0]), torch.randn(1, 4, 16)
    steps = []
    for _ in range(4):
        before = mover.moved
        network(x, time, context)
        steps.append(mover.moved - before)
    assert steps[0] >= size
    assert all(step < size // 2 for step in steps[1:])


def test_every_weight_is_in_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "BLOCK_BYTES", 0)
    for name, network in every_network().items():
        found = [
            id(tensor) for modules in groups(name, network, divided=True) for module in modules
            for tensor in own_tensors(module)
        ]  # fmt: skip
        assert sorted(found) == sorted(id(tensor) for tensor in (*network.parameters(), *network.buffers()))


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    draw = torch.Generator().manual_seed(1)
    place = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    sides = {"A": (2, 32), "B": (64, 2)}
    tensors = {f"{place}.lora_{side}.weight": torch.randn(shape, generator=draw) for side, shape in sides.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize("kind", ["model", "layer"])
def test_a_pipeline_paints_the_same(
    monkeypatch: pytest.MonkeyPatch, tiny_v_folder: Path, tmp_path: Path, lora: Path, kind: str
) -> None:
    def painted(pipe: wordbrush.Pipeline) -> list[Tensor]:
        return [pipe("a fox", seed=1, steps=2, loras=names).latents for names in ((), (str(lora),), ())]

    with monkeypatch.context() as plain:
        plain.setattr(Runtime, "packs", lambda *_: False)
        whole = wordbrush.load(tiny_v_folder, dtype="float32")
        wanted = painted(whole)
    size = max(total({name: network}) for name, network in whole.parts.networks.items())
    monkeypatch.setattr(offload, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(offload, "free_memory", lambda _: WORKING_BYTES + (size if kind == "model" else size // 2))
    pipe = wordbrush.load(tiny_v_folder, device="cpu", dtype="float32")
    assert pipe.placement is not None
    assert ("blocks take turns" if kind == "layer" else "whole networks take turns") in pipe.placement
    found = painted(pipe)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    pipe.save(tmp_path / "saved")
    again = wordbrush.load(tmp_path / "saved", dtype="float32")
    for part, network in again.parts.networks.items():
        before = pipe.parts.networks[part].state_dict()
        assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_offload_has_no_meaning_on_a_cpu(tiny_v_folder: Path) -> None:
    with pytest.raises(RequestError, match="only for device='cuda'"):
        wordbrush.load(tiny_v_folder, device="cpu", offload="model")
    assert wordbrush.load(tiny_v_folder, device="cpu").placement is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("divided", [False, True], ids=["model", "layer"])
@torch.inference_mode()
def test_on_a_gpu(monkeypatch: pytest.MonkeyPatch, divided: bool) -> None:
    monkeypatch.setattr(offload, "BLOCK_BYTES", 4096)
    networks, device = every_network(), torch.device("cuda")
    wanted = run(networks)
    largest = max(sum(p.nbytes for p in network.parameters()) for network in networks.values())
    mover = Offload(networks, device, largest // 2 if divided else largest, divided=divided)
    for one, other in zip(run(networks, device), wanted, strict=True):
        assert one.device.type == "cuda"
        torch.testing.assert_close(one.cpu(), other, atol=1e-3, rtol=1e-3)
    assert mover.moved > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_pipeline_on_a_gpu(tiny_v_folder: Path) -> None:
    wanted = wordbrush.load(tiny_v_folder, device="cpu", dtype="float32")("a fox", seed=1, steps=2).latents
    for kind in ("none", "model", "layer"):
        pipe = wordbrush.load(tiny_v_folder, device="cuda", dtype="float32", offload=kind)
        found = pipe("a fox", seed=1, steps=2).latents
        torch.testing.assert_close(found, wanted, atol=1e-2, rtol=1e-2)
        assert pipe.placement is not None
