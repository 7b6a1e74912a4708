"""Every runtime that is there computes what PyTorch computes, and says clearly what it cannot."""

import shutil

import pytest
import torch
from torch import nn

from amc.errors import ConfigError, ModelError
from amc.latency.backends import (
    Backend,
    base,
    default_backend,
    host,
    load_all,
    make_backend,
    onnx_format,
)
from amc.latency.backends.onnxruntime_cpu import OnnxRuntime
from amc.latency.backends.torch_compile import TorchCompile
from amc.latency.measurement import measure
from amc.registry import BACKENDS
from amc.tracing.inputs import Inputs
from amc.tracing.trace import trace

QUICK = [n for n in BACKENDS.names() if BACKENDS.load(n).missing() is None and n != "torch-compile"]


class Residual(nn.Module):
    """Two inputs, a depthwise layer, a shortcut, a norm: what runtimes fuse and reorder."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width))
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU6()) for _ in range(2)]
        )
        self.embed = nn.Embedding(5, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        x = torch.relu(x + self.depthwise(x))
        for block in self.blocks:
            x = x + block(x)
        pooled = x.mean((2, 3))
        return self.head(pooled * self.embed(tokens)), pooled


class Bessel(nn.Module):
    """No exchange format has this."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(self.linear(x))


class Times(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, factor: int) -> torch.Tensor:
        return self.linear(x) * factor


@pytest.fixture
def residual():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Residual()
    model.stem[1].running_mean.fill_(0.3)  # evaluation differs from training
    generator = torch.Generator().manual_seed(1)
    return model, (torch.randn(2, 3, 10, 10, generator=generator), torch.tensor([1, 4]))


def outputs(forward) -> list[torch.Tensor]:
    """What a forward hands out, whatever the runtime's own form of it."""
    found = forward()
    values = found if isinstance(found, tuple | list) else found.to_tuple()
    return [torch.as_tensor(value) for value in values]


def agrees(name, model, inputs):
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    forward = make_backend(name).load(model, inputs)
    found = outputs(forward)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    with torch.inference_mode():
        expected = model.eval()(*inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", QUICK)
def test_a_forward_computes_what_pytorch_computes(residual, name):
    agrees(name, *residual)


@pytest.mark.slow
@pytest.mark.skipif(TorchCompile.missing() is not None, reason="no compiler")
def test_compiled_networks_of_one_class_stay_apart(residual):
    agrees("torch-compile", *residual)
    runtime, x = make_backend("torch-compile"), torch.randn(2, 3)
    models = [nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)) for width in range(3, 13)]
    forwards = [runtime.load(model, (x,)) for model in models]
    for model, forward in zip(models, forwards, strict=True):
        torch.testing.assert_close(forward(), model(x))
    assert runtime.profile(models[0], (x,)) is None


@pytest.mark.parametrize("name", QUICK)
def test_a_profile_knows_every_layer_by_name(residual, name):
    model, inputs = residual
    layers = {layer.name for layer in trace(model.eval(), inputs).layers if layer.macs}
    parts = make_backend(name).profile(model, inputs, repeats=3)
    assert layers == {"stem.0", "depthwise", "blocks.0.0", "blocks.1.0", "head"}
    assert sorted(part.layer for part in parts if part.layer in layers) == sorted(layers)
    assert all(part.ms >= 0 for part in parts)
    assert not model.stem[0]._forward_hooks


def test_a_fused_layer_is_found_behind_the_names_of_what_follows_it(residual):
    model, inputs = residual
    layers = onnx_format.layer_names(onnx_format.to_onnx(model.eval(), Inputs(*inputs)))
    found = onnx_format.find_layer(layers, "/blocks.0/blocks.0.0/Conv/WithoutBiases")
    assert found == "blocks.0.0"
    assert layers["/blocks.0/blocks.0.1/Clip_output_0"] == "blocks.0.0"
    # Two read the stem's output: what comes after belongs to neither.
    assert "/Relu" not in layers or layers["/Relu"] != "stem.0"
    assert onnx_format.find_layer(layers, "ReorderInput_token_3") == ""


def test_a_number_among_the_inputs_is_part_of_the_network():
    model, x = Times(), torch.ones(2, 4)
    (found,) = outputs(make_backend("onnxruntime").load(model, (x, 3)))
    torch.testing.assert_close(found, model(x, 3).detach())


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_an_operator_that_it_does_not_know_is_named(name, capfd):
    runtime = make_backend(name)
    with pytest.raises(ModelError, match=rf"{runtime.title} cannot run.*special_bessel_j0"):
        runtime.load(Bessel(), (torch.ones(1, 4),))
    assert capfd.readouterr().out == ""  # the exporter prints its graphs


@pytest.mark.parametrize("name", QUICK)
def test_a_batch_or_size_that_does_not_fit_is_said_with_its_shape(name):
    with pytest.raises(ModelError, match=r"does not take inputs of shapes \[\(2, 5\)\]"):
        make_backend(name).load(nn.Linear(4, 4), (torch.ones(2, 5),))


def test_unknown_names_and_settings():
    message = "backend 'tvm' is unknown; choose from onnxruntime, torch,"
    with pytest.raises(ConfigError, match=message):
        make_backend("tvm")
    with pytest.raises(ConfigError, match="does not run on 'cuda'; it runs on cpu"):
        make_backend("onnxruntime", device="cuda")
    with pytest.raises(ConfigError, match="0 threads"):
        make_backend("torch", threads=0)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_what_is_not_installed_comes_with_its_install_line(monkeypatch, name):
    monkeypatch.setattr(onnx_format, "find_spec", lambda module: None if module == name else 1)
    extra = {"onnxruntime": "onnx"}.get(name, name)
    words = rf"{name}' is not available: {name} missing: pip install 'amc-agent\[{extra}\]'"
    with pytest.raises(ConfigError, match=words):
        make_backend(name)


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler: apt install"):
        make_backend("torch-compile")


def test_the_default_is_onnx_runtime_and_pytorch_where_that_is_of_no_use(monkeypatch):
    assert default_backend().name == "onnxruntime"
    x = (torch.ones(1, 4),)
    runtime, forwards = load_all([nn.Linear(4, 4), Bessel()], x)
    assert runtime.name == "torch"
    assert len(forwards) == 2
    assert load_all([nn.Linear(4, 4)], x)[0].name == "onnxruntime"
    monkeypatch.setattr(OnnxRuntime, "missing", staticmethod(lambda: "gone"))
    assert default_backend().name == "torch"


def test_it_says_what_it_is_and_what_a_latency_depends_on():
    one, two = make_backend("onnxruntime"), make_backend("onnxruntime", threads=2)
    assert one.description == f"ONNX Runtime {one.version}, 1 thread, float32, {host.host_name()}"
    assert "2 threads" in two.description
    different = {key for key, value in one.identity().items() if two.identity()[key] != value}
    assert different == {"threads"}
    torchs = make_backend("torch").identity()
    assert torchs["version"] == torch.__version__.partition("+")[0]
    assert torchs["host"] == one.identity()["host"]


def test_pytorch_has_its_threads_back():
    before = torch.get_num_threads()
    seen = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x

    make_backend("torch", threads=before + 1).load(Look(), (torch.ones(1),))()
    assert seen[-1] == before + 1
    assert torch.get_num_threads() == before


def test_half_precision_is_measured_in_float32():
    model = nn.Linear(4, 4).half()
    (found,) = outputs(make_backend("onnxruntime").load(model, (torch.ones(1, 4).half(),)))
    assert found.dtype == torch.float32
    assert model.weight.dtype == torch.float16


def test_a_new_runtime_is_a_class_of_a_few_lines():
    class Phone(Backend):
        name, title = "phone", "A phone"

        @classmethod
        def missing(cls):
            return None

        @property
        def version(self):
            return "1"

        def _load(self, model, inputs):
            return lambda: inputs.call(model)

        def time(self, forward):
            forward()
            return 0.25, 0.5  # its own clock's

    phone = Phone()
    (latency,) = measure([phone.load(nn.Linear(4, 4), (torch.ones(1, 4),))], time=phone.time)
    assert (latency.median_ms, latency.cpu_ms) == (250, 500)
    assert phone.profile(nn.Linear(4, 4), (torch.ones(1, 4),)) is None


def test_a_reason_is_one_line_with_the_operator_wherever_it_hides():
    error = RuntimeError("\x1b[96mStep 3\x1b[0m failed. Next steps:\n- report it")
    error.__cause__ = ValueError("a link between")
    error.__cause__.__context__ = ValueError("No rule for 'aten::frobnicate' here")
    assert base.reason(error) == "operator aten::frobnicate: Step 3 failed"
    assert base.reason(RuntimeError("")) == "RuntimeError"
