"""Weights in the formats that users have, and what is refused; small networks of the real kinds; input rules."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import signal
from torch import nn
from torch.nn import functional as F

from understudy.errors import UnderstudyError
from understudy.io.files import sha256_file
from understudy.quality.extractors import Classifier, Extractor, InputRule, make_extractor, random_network, resized
from understudy.quality.networks import Inception, ResNet50, from_graph, graph_names

SLICES = np.random.default_rng(0).integers(0, 256, (2, 32, 32)).astype(np.uint8)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics that let a signal through: He for convolutions, varied batch statistics."""
    rng = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 4:
            nn.init.kaiming_normal_(tensor, generator=rng)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=rng)
        elif name.endswith(("bn.bias", "running_mean")):
            tensor.normal_(0, 0.1, generator=rng)
        elif tensor.ndim == 2:
            tensor.normal_(0, 0.02, generator=rng)
    return network.eval()


@pytest.fixture(scope="module")
def inception() -> Inception:
    return randomised(Inception(fid=True))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def state_dict(inception: Inception, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As torch-fidelity's file."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(inception.state_dict(), path)
    return path


def test_inception_reads_a_state_dict(state_dict: Path, inception: Inception) -> None:
    found = make_extractor("inception2015", state_dict, sha256_file(state_dict))
    assert isinstance(found, Extractor)
    assert isinstance(found, Classifier)
    assert (found.name, found.dimension, found.channels) == ("inception2015", 2048, None)
    assert found.sha256 == sha256_file(state_dict)
    assert found.rule["size"] == 299
    features = found.features(SLICES)
    assert (features.shape, features.dtype) == ((2, 2048), np.float32)
    # the score leaves the last layer's bias out
    expected = features @ inception.fc.weight.detach().numpy().T
    np.testing.assert_allclose(found.logits(features), expected, rtol=1e-5)


def test_inceptions_blocks_equal_the_published_wiring(inception: Inception) -> None:
    """The last block by hand: branches that fork, a pool that takes the maximum; other pools leave padding out."""
    x = torch.rand(1, 2048, 5, 5, generator=torch.Generator().manual_seed(1))
    b = inception.Mixed_7c
    with torch.inference_mode():
        left, right = b.branch3x3_1(x), b.branch3x3dbl_2(b.branch3x3dbl_1(x))
        expected = [b.branch1x1(x), b.branch3x3_2a(left), b.branch3x3_2b(left), b.branch3x3dbl_3a(right)]
        expected += [b.branch3x3dbl_3b(right), b.branch_pool(F.max_pool2d(x, 3, 1, 1))]
        torch.testing.assert_close(b(x), torch.cat(expected, 1))
        c = inception.Mixed_6b
        y = torch.rand(1, 768, 4, 4, generator=torch.Generator().manual_seed(2))
        ones = np.ones((3, 3))
        count = signal.convolve2d(np.ones((4, 4)), ones, "same")
        mean = np.stack([signal.convolve2d(p, ones, "same") / count for p in y[0].numpy()])
        pooled = c.branch_pool(torch.from_numpy(mean[None].astype(np.float32)))
        torch.testing.assert_close(c(y)[:, -192:], pooled, rtol=1e-4, atol=1e-5)


def test_inception_has_the_published_size() -> None:
    # 21.8 M weights of the body of Inception-v3, and 1008 classes
    network = Inception(fid=True)
    body = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("fc."))
    assert body == 21_785_568
    assert network.fc.weight.shape == (1008, 2048)


class _Layer(nn.Module):
    """A convolution as the archive has it: no scale after the normalisation, parameters without modules."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.weight, self.beta = nn.Parameter(source.conv.weight), nn.Parameter(source.bn.bias)
        self.register_buffer("mean", source.bn.running_mean)
        self.register_buffer("var", source.bn.running_var)


class _Archive(nn.Module):
    """The tree of modules that the 2015 graph's names make; runs nothing."""

    def __init__(self, inception: Inception, layers: nn.Module | None = None) -> None:
        super().__init__()
        if layers is not None:
            self.layers = layers
        for theirs, ours in graph_names().items():
            place: nn.Module = self
            # of the names with underscores only towers within a block are modules of their own
            steps = theirs.removeprefix("layers_")
            block = next((f"mixed_{i}" for i in range(10, 0, -1) if steps.startswith(f"mixed_{i}_")), "")
            block = block or ("mixed" if steps.startswith("mixed_") else "")
            path = ["layers", block, steps.removeprefix(f"{block}_")] if block else ["layers", steps]
            for step in path[:-1]:
                if not hasattr(place, step):
                    place.add_module(step, nn.Module())
                place = getattr(place, step)
            place.add_module(path[-1], _Layer(inception.get_submodule(ours)))
        self.output = inception.fc

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def archive(inception: Inception, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TorchScript with the names of the archive that clean-fid and StyleGAN use; `layers` cannot be called."""
    path = tmp_path_factory.mktemp("script") / "inception.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(_Archive(inception)).save(str(path))
    return path


def test_inception_reads_torchscript(archive: Path, state_dict: Path) -> None:
    scripted = make_extractor("inception2015", archive, sha256_file(archive))
    plain = make_extractor("inception2015", state_dict, sha256_file(state_dict))
    np.testing.assert_array_equal(scripted.features(SLICES), plain.features(SLICES))
    assert scripted.sha256 != plain.sha256


class _Other(nn.Module):
    """Layers that compute something else than what their weights are for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :2048]


def test_a_script_that_computes_other_features_is_refused(inception: Inception, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(_Archive(inception, _Other())).save(str(tmp_path / "other.pt"))
    with pytest.raises(UnderstudyError, match="other features"):
        make_extractor("inception2015", tmp_path / "other.pt", sha256_file(tmp_path / "other.pt"))


def test_graph_names_cover_every_convolution(inception: Inception) -> None:
    convolutions = {n.removesuffix(".conv.weight") for n in inception.state_dict() if n.endswith(".conv.weight")}
    names = graph_names()
    assert sorted(names.values()) == sorted(convolutions)
    assert len(names) == 94
    # with modules for the two steps, as other translations of the graph have them
    nested = {"layers.conv.conv.weight": torch.ones(1), "layers.conv.bn.bias": torch.ones(1)}
    assert set(from_graph(nested)) == {
        "Conv2d_1a_3x3.conv.weight", "Conv2d_1a_3x3.bn.bias", "Conv2d_1a_3x3.bn.weight",
    }  # fmt: skip


class _Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Flatten()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def test_a_script_with_other_weights_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(_Wrong()).save(str(tmp_path / "wrong.pt"))
    digest = sha256_file(tmp_path / "wrong.pt")
    with pytest.raises(UnderstudyError, match="not in the file"):
        make_extractor("inception2015", tmp_path / "wrong.pt", digest)
    with pytest.raises(UnderstudyError, match="no SHA-256 vouches"):
        make_extractor("dinov2", tmp_path / "wrong.pt")


def test_wrong_hashes_are_refused(state_dict: Path, archive: Path) -> None:
    for path in (state_dict, archive):
        with pytest.raises(UnderstudyError, match="not 6726825d… or f58cb9b6"):
            make_extractor("inception2015", path)
    with pytest.raises(UnderstudyError, match="have the SHA-256"):
        make_extractor("inception2015", state_dict, "0" * 64)
    with pytest.raises(UnderstudyError, match="at least its first 8"):
        make_extractor("inception2015", state_dict, sha256_file(state_dict)[:4])


def test_missing_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    small = ResNet50((1, 1, 1, 1)).state_dict()
    small["layer3.0.conv2.weight"] = torch.zeros(1)
    torch.save(small, tmp_path / "shape.pth")
    with pytest.raises(UnderstudyError, match=r"layer3\.0\.conv2\.weight has the shape \(1,\)"):
        make_extractor("radimagenet_resnet50", tmp_path / "shape.pth")
    del small["layer3.0.conv2.weight"]
    torch.save(small, tmp_path / "missing.pth")
    with pytest.raises(UnderstudyError, match=r"1 of \d+ weights .* layer3\.0\.conv2\.weight"):
        make_extractor("radimagenet_resnet50", tmp_path / "missing.pth")


class Bomb:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_a_foreign_pickle_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"weight": Bomb(tmp_path / "executed")}))
    torch.save({"weight": Bomb(tmp_path / "executed")}, tmp_path / "zip.pth")
    (tmp_path / "noise.pth").write_bytes(b"not weights at all")
    (tmp_path / "noise.safetensors").write_bytes(b"not weights at all")
    for name in ("bomb.pth", "zip.pth", "noise.pth", "noise.safetensors"):
        with pytest.raises(UnderstudyError, match="cannot be read safely"):
            make_extractor("radimagenet_resnet50", tmp_path / name)
    assert not (tmp_path / "executed").exists()
    with pytest.raises(UnderstudyError, match="there are no weights"):
        make_extractor("radimagenet_resnet50", tmp_path / "absent.pth")
    with pytest.raises(UnderstudyError, match="no extractor 'vgg'"):
        make_extractor("vgg", tmp_path / "noise.pth")


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_resnet_of_radimagenet(prefix: str, tmp_path: Path) -> None:
    """RadImageNet's file numbers its layers (convolution 0, normalisation 1, stages 4 to 7); torchvision names them."""
    network = randomised(ResNet50((1, 2, 1, 1)))
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    state = {}
    for name, tensor in network.state_dict().items():
        first, rest = name.split(".", 1)
        state[f"{prefix}{numbers[first]}.{rest}" if prefix else name] = tensor.contiguous()
    save_file(state, tmp_path / "r.safetensors")
    found = make_extractor("radimagenet_resnet50", tmp_path / "r.safetensors")
    other = np.random.default_rng(1).integers(0, 256, (1, 224, 224)).astype(np.uint8)
    x = torch.from_numpy(other).float()[:, None].repeat(1, 3, 1, 1) / 127.5 - 1
    with torch.inference_mode():
        np.testing.assert_allclose(found.features(other), network(x).numpy(), rtol=1e-4, atol=1e-4)


def test_resnet_50_has_the_published_size() -> None:
    assert sum(p.numel() for p in ResNet50().parameters()) == 25_557_032 - 2048 * 1000 - 1000


def test_inception_of_radimagenet(tmp_path: Path) -> None:
    network = Inception(fid=False)
    layers = [name for name, _ in network.named_children()]
    places = [0, 1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18]  # 3, 6: pools; 15: the second classifier
    state = {}
    for name, tensor in network.state_dict().items():
        first, rest = name.split(".", 1)
        state[f"backbone.{places[layers.index(first)]}.{rest}"] = tensor
    state["backbone.15.conv0.conv.weight"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "i.pt")
    found = make_extractor("radimagenet_inception", tmp_path / "i.pt")
    for name, tensor in found.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def official_dinov2(hidden: int, depth: int, grid: int) -> dict[str, torch.Tensor]:
    """A state dict with the official names."""
    rng = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) * 0.1

    state = {
        "cls_token": made(1, 1, hidden), "pos_embed": made(1, grid**2 + 1, hidden),
        "mask_token": made(1, hidden), "patch_embed.proj.weight": made(hidden, 3, 14, 14),
        "patch_embed.proj.bias": made(hidden), "norm.weight": made(hidden) + 1, "norm.bias": made(hidden),
    }  # fmt: skip
    for i in range(depth):
        for n in (1, 2):
            state[f"blocks.{i}.norm{n}.weight"], state[f"blocks.{i}.norm{n}.bias"] = (made(hidden) + 1, made(hidden))
            state[f"blocks.{i}.ls{n}.gamma"] = made(hidden) + 1
        for name, rows, columns in (("attn.qkv", 3 * hidden, hidden), ("attn.proj", hidden, hidden),
                                    ("mlp.fc1", 4 * hidden, hidden), ("mlp.fc2", hidden, 4 * hidden)):  # fmt: skip
            state[f"blocks.{i}.{name}.weight"] = made(rows, columns)
            state[f"blocks.{i}.{name}.bias"] = made(rows)
    return state


def vision_transformer(state: dict[str, torch.Tensor], x: torch.Tensor, depth: int, heads: int) -> torch.Tensor:
    """The class token by hand, from the paper's description, in torch's own attention."""

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(y, y.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(y: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(y, state[f"{name}.weight"], state[f"{name}.bias"])

    y = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    y = torch.cat([state["cls_token"].expand(len(x), -1, -1), y.flatten(2).mT], 1) + state["pos_embed"]
    for i in range(depth):
        b = f"blocks.{i}"
        parts = linear(norm(y, f"{b}.norm1"), f"{b}.attn.qkv").chunk(3, dim=-1)
        q, k, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in parts)
        joined = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = y + state[f"{b}.ls1.gamma"] * linear(joined, f"{b}.attn.proj")
        inner = linear(F.gelu(linear(norm(y, f"{b}.norm2"), f"{b}.mlp.fc1")), f"{b}.mlp.fc2")
        y = y + state[f"{b}.ls2.gamma"] * inner
    return norm(y, "norm")[:, 0]


def test_dinov2_equals_a_transformer_by_hand(tmp_path: Path) -> None:
    state = official_dinov2(128, 2, grid=16)  # 16 patches of 14 pixels: 224, so positions need no interpolation
    torch.save(state, tmp_path / "d.pth")
    found = make_extractor("dinov2", tmp_path / "d.pth")
    assert found.dimension == 128
    slices = np.random.default_rng(2).integers(0, 256, (2, 224, 224)).astype(np.uint8)
    x = torch.from_numpy(slices).float()[:, None].repeat(1, 3, 1, 1) / 255
    mean, std = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    x = (x - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(1, 3, 1, 1)
    expected = vision_transformer(state, x, depth=2, heads=2)
    np.testing.assert_allclose(found.features(slices), expected.numpy(), rtol=1e-3, atol=1e-3)


def test_dinov2_reads_hugging_faces_names_old_and_new(tmp_path: Path) -> None:
    """The same weights under Meta's names, and those of Hugging Face before and since transformers 5."""
    state, made = official_dinov2(64, 1, grid=16), {}
    torch.save(state, tmp_path / "meta.pth")
    wanted = make_extractor("dinov2", tmp_path / "meta.pth")
    new = {k.removeprefix("body."): v for k, v in wanted.network.state_dict().items()}  # type: ignore[attr-defined]
    for name, tensor in new.items():
        old = name.replace("attention.o_proj", "attention.output.dense")
        for letter, word in (("q", "query"), ("k", "key"), ("v", "value")):
            old = old.replace(f"attention.{letter}_proj", f"attention.attention.{word}")
        made[old] = tensor.contiguous()
    for file, tensors in {"old.safetensors": made, "new.safetensors": new}.items():
        save_file(tensors, tmp_path / file)
        found = make_extractor("dinov2", tmp_path / file)
        np.testing.assert_array_equal(found.features(SLICES), wanted.features(SLICES))


def test_dinov2_reads_other_grids_and_refuses_other_files(tmp_path: Path) -> None:
    state = official_dinov2(64, 1, grid=37)  # as the official ones: 518 pixels
    torch.save({"teacher": state}, tmp_path / "d.pth")
    assert make_extractor("dinov2", tmp_path / "d.pth").features(SLICES).shape == (2, 64)
    torch.save({**state, "register_tokens": torch.zeros(1, 4, 64)}, tmp_path / "registers.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("registers.pth", "other.pth"):
        with pytest.raises(UnderstudyError, match="not the state dict of a DINOv2"):
            make_extractor("dinov2", tmp_path / name)


def test_the_random_network_is_the_same_everywhere() -> None:
    found, again, other = random_network(), random_network(), random_network(seed=1)
    assert found.sha256 == again.sha256 != other.sha256
    assert found.sha256.startswith("e8a479c972af8f39")  # numpy's stream, on any machine
    features = found.features(SLICES)
    np.testing.assert_array_equal(features, again.features(SLICES))
    assert features.shape == (2, 128)
    assert np.isfinite(features).all()
    assert np.abs(features[0] - features[1]).max() > 0
    assert random_network("tf1").rule != found.rule


@pytest.mark.parametrize(("edge", "size"), [(64, 99), (32, 14), (64, 20)])
def test_bicubic_is_pils_on_float_images(edge: int, size: int) -> None:
    slices = np.random.default_rng(0).integers(0, 256, (2, edge, edge)).astype(np.uint8)
    mine = InputRule(size, copies=1).apply(slices).numpy()
    for image, found in zip(slices, mine, strict=True):
        pil = Image.fromarray(image.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(found[0], np.asarray(pil).clip(0, 255), atol=2e-3)


@pytest.mark.parametrize(("edge", "size"), [(8, 13), (16, 5)])
def test_tf1_is_a_loop(edge: int, size: int) -> None:
    image = np.random.default_rng(1).uniform(0, 255, (edge, edge)).astype(np.float32)
    expected = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            y, x = i * edge / size, j * edge / size
            y0, x0 = int(y), int(x)
            y1, x1, v, u = min(y0 + 1, edge - 1), min(x0 + 1, edge - 1), y - y0, x - x0
            top = (1 - u) * image[y0, x0] + u * image[y0, x1]
            expected[i, j] = (1 - v) * top + v * ((1 - u) * image[y1, x0] + u * image[y1, x1])
    found = resized(torch.from_numpy(image)[None, None], size, "tf1")[0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_copies_are_shifted_and_scaled_each() -> None:
    slices = np.full((1, 4, 4), 100, np.uint8)
    x = InputRule(4, mean=(0.0, 50.0, 100.0), std=(1.0, 2.0, 4.0)).apply(slices)
    assert x.shape == (1, 3, 4, 4)
    assert x[0, :, 0, 0].tolist() == [100, 25, 0]
