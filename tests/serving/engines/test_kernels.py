"""The compiled kernels held against torch's operations, and products of a few rows against oneDNN's."""

import math
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from serving.engines import compiled, few_rows, fused_layers, kernels, onednn
from serving.engines.activations import Activation
from serving.engines.few_rows import FewRows
from serving.engines.kernels import AttentionArguments
from serving.engines.onednn import Int8Linear, TwoPartInt8Linear

ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    Activation.RELU: F.relu,
    Activation.SILU: F.silu,
    Activation.GELU: F.gelu,
    Activation.GELU_TANH: partial(F.gelu, approximate="tanh"),
}


class Floats:
    """A linear layer whose product is what it takes, in float32."""

    parts = 0

    def __init__(self, width: int) -> None:
        self.inputs = self.outputs = width
        self.bias = torch.zeros(width)

    def multiply(self, rounded: torch.Tensor) -> torch.Tensor:
        return rounded


@pytest.fixture
def int8() -> None:
    if not onednn.is_supported():
        pytest.skip("this processor has no AVX-512 VNNI")


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(layer: Int8Linear, x: torch.Tensor) -> torch.Tensor:
    """Return the whole product of a linear layer: `x` rounded, multiplied, scaled."""
    scales = torch.empty(len(x))
    return fused_layers.finish(layer)(scales, layer.multiply(fused_layers.rounding(layer)(scales, x=x)))


@pytest.mark.parametrize("width", [8, 96, 770])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_post_norm", [True, False])
def test_a_norm_of_the_product_and_the_residual_is_torchs(width: int, has_bias: bool, is_post_norm: bool) -> None:
    x, product, weight = random(5, width), random(5, width, seed=1), random(width, seed=2)
    bias = random(width, seed=3) if has_bias else None
    total = x + product
    expected = (
        F.rms_norm(total, (width,), weight, 1e-5) if bias is None else F.layer_norm(total, (width,), weight, bias)
    )
    norm = fused_layers.norm(weight, bias, 1e-5, Floats(width), Floats(width), is_post_norm=is_post_norm)
    torch.testing.assert_close(norm(torch.empty(5), product, x), expected)
    torch.testing.assert_close(x, expected if is_post_norm else total)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("is_gated", [True, False])
def test_an_activation_is_torchs_for_small_and_large_numbers(kind: Activation, is_gated: bool) -> None:
    x = torch.cat([random(100) * 3, torch.linspace(-200, 200, 100), torch.tensor([0.0, 1e-30, -1e-30, 1e4, -1e4])])[
        None
    ]
    expected = ACTIVATIONS[kind](x)
    before, after = Floats(x.shape[1]), Floats(x.shape[1])
    product = x
    if is_gated:
        gate, before = random(*x.shape, seed=4), Floats(2 * x.shape[1])
        expected, product = expected * gate, torch.cat([x, gate], dim=1)
    result = fused_layers.activation(kind, before, after)(torch.empty(1), product)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_infinity_and_nan_are_not_lost(int8: None) -> None:
    layer = Int8Linear(random(8, 12), None)
    for strange in (math.nan, math.inf):
        x = random(3, 12)
        x[1, 5] = strange
        result = linear(layer, x)
        assert not result[1].isfinite().any()
        assert result[[0, 2]].isfinite().all()
    for activation in ACTIVATIONS:
        layer_of_floats = fused_layers.activation(activation, Floats(4), Floats(4))
        result = layer_of_floats(torch.empty(1), torch.tensor([[math.nan, 1.0, math.inf, 0.0]]))
        assert result.isfinite().tolist() == [[False, True, False, True]]


@pytest.mark.parametrize(("made", "error"), [(Int8Linear, 1 / 254), (TwoPartInt8Linear, 1 / 65278)])
def test_a_rounded_row_is_within_half_a_step_of_its_largest_number(
    int8: None, made: type[Int8Linear], error: float
) -> None:
    x = torch.cat([random(40, 64) * 10, torch.zeros(1, 64), torch.full((1, 64), -3.0)])
    eye = made(torch.eye(64), None)
    assert ((linear(eye, x) - x).abs() <= x.abs().amax(dim=1, keepdim=True) * (error + 1e-6)).all()


@pytest.mark.parametrize("window", [0, 20])
def test_attention_over_the_cache_is_torchs(window: int) -> None:
    heads, heads_of_keys, dim, read = 6, 2, 24, (37, 0, 90)
    cache = random(2, 2, 3, heads_of_keys, 128, dim)  # (layers, keys or values, slots, heads, capacity, head_dim)
    qkv = random(3, heads + 2 * heads_of_keys, dim, seed=1)
    of_layer, to_value, of_slot, of_head, _, _ = cache.stride()
    places = np.array(
        [(row, cache.data_ptr() + 4 * row * of_slot, of_layer, of_head, to_value, read[row], 0) for row in range(3)]
    )
    out = torch.empty(3, heads, dim)
    arguments = AttentionArguments(
        tokens=3,
        places=places.ctypes.data,
        layer=1,
        qkv=qkv.data_ptr(),
        heads=heads,
        heads_of_keys=heads_of_keys,
        head_dim=dim,
        window=window,
        out=out.data_ptr(),
    )
    kernels.attend(arguments, 0)
    for row, length in enumerate(read):
        assert torch.equal(cache[1, 0, row, :, length], qkv[row, heads : heads + heads_of_keys])
        assert torch.equal(cache[1, 1, row, :, length], qkv[row, heads + heads_of_keys :])
        begin = max(0, length + 1 - window) if window else 0
        keys, values = cache[1, :, row, :, begin : length + 1]
        expected = F.scaled_dot_product_attention(qkv[row, :heads, None], keys, values, enable_gqa=True)
        torch.testing.assert_close(out[row], expected[:, 0])


def test_a_row_has_the_same_bits_with_any_number_of_threads(set_threads: Callable[[int], None]) -> None:
    width, rows = 2048, 50
    activation = fused_layers.activation(Activation.GELU_TANH, Floats(width), Floats(width))
    x = random(rows, width)
    set_threads(1)
    alone = torch.cat([activation(torch.empty(1), row[None].contiguous()) for row in x])
    for threads in (1, 2, 5):
        set_threads(threads)
        assert torch.equal(activation(torch.empty(rows), x.clone()), alone)


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 1), (36, 70), (96, 64), (768, 130)])
def test_a_few_rows_have_the_bits_of_onednn(
    int8: None, inputs: int, outputs: int, set_threads: Callable[[int], None]
) -> None:
    weight = random(outputs, inputs)
    layer = Int8Linear(weight, None)
    if layer._few_rows is None:
        pytest.skip("oneDNN rounds a product otherwise on this processor")
    generator = torch.Generator().manual_seed(1)
    rounded = torch.randint(0, 256, (few_rows.MOST + 1, inputs), dtype=torch.uint8, generator=generator)
    expected = layer.multiply(rounded)  # one row too many
    for threads in (1, 3):
        set_threads(threads)
        for rows in range(1, few_rows.MOST + 1):
            assert torch.equal(layer.multiply(rounded[:rows].contiguous()), expected[:rows])


def test_products_are_rounded_once_or_twice_as_onednn_does(int8: None) -> None:
    weight, scale, shift = torch.randint(-127, 128, (64, 32), dtype=torch.int8), random(64), random(64, seed=1)
    rounded = torch.randint(0, 256, (3, 32), dtype=torch.uint8)
    sums = (rounded.long() @ weight.T.long()).double()
    twice = sums.float() * scale + shift
    once = (sums * scale.double() + shift.double()).float()
    assert not torch.equal(once, twice)
    for expected in (twice, once, twice):
        few = FewRows(weight, scale, shift)
        assert few.matches(rounded, expected)
        assert torch.equal(few.multiply(rounded), expected)
    assert not FewRows(weight, scale, shift).matches(rounded, twice + 1e-3)


def test_where_few_rows_would_have_other_bits_onednn_multiplies_them(
    int8: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, rounded = random(64, 32), torch.full((2, 32), 7, dtype=torch.uint8)
    expected = Int8Linear(weight, None).multiply(rounded)
    multiply = FewRows.multiply
    monkeypatch.setattr(FewRows, "multiply", lambda self, rounded: multiply(self, rounded) * (1 + 1e-6))
    layer = Int8Linear(weight, None)
    assert layer._few_rows is None
    assert torch.equal(layer.multiply(rounded), expected)


def run_kernel(then: str = "", **environment: str) -> str:
    """Return what a process prints that runs a kernel in two threads."""
    code = """
        import torch
        from pathlib import Path
        torch.set_num_threads(2)
        x = torch.randn(64, 2048)
        torch.relu(x @ x.T)
        from serving.engines import compiled, fused_layers
        from tests.serving.engines.test_kernels import Activation, Floats
        activation = fused_layers.activation(Activation.RELU, Floats(2048), Floats(2048))
        assert torch.equal(activation(torch.empty(64), x), torch.relu(x))
    """
    script = textwrap.dedent(code) + textwrap.dedent(then)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_kernels_run_in_the_threads_of_torch() -> None:
    output = run_kernel("print({line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line})")
    assert output.count("libgomp") == 1, "a second OpenMP, whose threads would wait for cores on which torch's spin"
    assert "/torch/" in output


def test_compiled_code_is_kept_by_its_sources_and_compiled_once(tmp_path: Path) -> None:
    code = """
        kernel = fused_layers.kernels.activate
        print(kernel._compiled.cache_hits, kernel._compiled._cache.cache_path)
    """
    hits, first = run_kernel(code, NUMBA_CACHE_DIR=str(tmp_path)).split()
    assert (hits, Path(first).parent) == ("0", tmp_path)
    assert list(Path(first).glob("*.nbc"))
    assert run_kernel(code, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["1", first]


def test_changed_sources_are_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    engines = Path(shutil.copytree(Path(compiled.__file__).parent, tmp_path / "engines"))
    monkeypatch.setattr(compiled, "__file__", str(engines / "compiled.py"))

    def place() -> str:
        locator = compiled._SourceHashLocator.from_function(kernels.norm._function, str(engines / "kernels.py"))
        assert locator is not None
        return locator.get_cache_path()

    places = {place(), place()}
    for changed in ("compiled.py", "kernels.py", "activations.py"):
        with (engines / changed).open("a") as file:
            file.write("# changed")
        places.add(place())
    assert len(places) == 4
    assert compiled._SourceHashLocator.from_function(place, __file__) is None


def test_where_nothing_can_be_kept_kernels_are_compiled_at_each_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code = "print(fused_layers.kernels.activate._compiled._cache.cache_path)"
    assert run_kernel(code, NUMBA_CACHE_DIR=str(tmp_path / "file" / "kernels")).strip() == "None"
