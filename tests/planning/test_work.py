"""Products and traffic of instructions written by hand."""

import itertools

import numpy as np
import pytest

from transformer_jax.planning.hlo import parse_program
from transformer_jax.planning.work import list_work


def work(*lines, other=""):
    body = "".join(f"  {line}\n" for line in lines)
    program = parse_program(f"{other}ENTRY %main (x: f32[8]) -> f32[8] {{\n{body}}}\n")
    return list_work(program)


def test_a_product_takes_two_operations_for_each_pair():
    *_, one = work(
        "%a = f32[3,4,5]{2,1,0} parameter(0)",
        "%b = f32[3,5,6]{2,1,0} parameter(1)",
        "ROOT %r = f32[3,4,6]{2,1,0} dot(%a, %b), lhs_batch_dims={0}, lhs_contracting_dims={2}, "
        "rhs_batch_dims={0}, rhs_contracting_dims={1}",
    )
    assert one.flops == 2 * 3 * 4 * 5 * 6
    assert one.bytes == 4 * (3 * 4 * 5 + 3 * 5 * 6 + 3 * 4 * 6)


# What the compiler makes of products for a TPU: [32,128,512] x [512,64], and a batch of products
# [32,2] of [128,64] x [64,128], whose batch has become two dimensions of space.
PRODUCTS = {
    "plain": (
        "bf16[32,128,512]", "bf16[512,64,1]", "bf16[32,128,64]",
        "window={size=1}, dim_labels=0bf_io0->0bf", 2 * 32 * 128 * 512 * 64,
    ),
    "batched": (
        "bf16[32,128,2,64]", "bf16[32,128,2,64]", "f32[32,2,128,128]",
        "window={size=32x2 stride=31x1 lhs_dilate=32x2}, dim_labels=0b1f_0o1i->01bf",
        2 * 32 * 2 * 128 * 128 * 64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_that_is_written_as_a_convolution_takes_as_many(name):
    left, right, result, attributes, flops = PRODUCTS[name]
    *_, one = work(
        f"%a = {left} parameter(0)",
        f"%b = {right} parameter(1)",
        f"ROOT %r = {result} convolution(%a, %b), {attributes}",
    )
    assert one.flops == flops


@pytest.mark.parametrize(
    ("size", "window", "stride", "low", "high", "holes", "spread"),
    [
        (5, 3, 1, 0, 0, 1, 1),
        (5, 3, 1, 1, 1, 1, 1),
        (7, 3, 2, 2, 1, 1, 1),
        (5, 4, 3, 0, 0, 4, 1),
        (4, 3, 1, 2, 2, 2, 2),
        (5, 3, 1, 2, 2, 1, 2),
    ],
)
def test_pairs_are_those_of_numbers_neither_on_padding_nor_in_holes(
    size, window, stride, low, high, holes, spread
):
    padded = np.zeros((size - 1) * holes + 1 + low + high)
    padded[low : low + (size - 1) * holes + 1 : holes] = 1
    starts = range(0, len(padded) - (window - 1) * spread, stride)
    pairs = sum(padded[r + w * spread] for r, w in itertools.product(starts, range(window)))
    attributes = (
        f"window={{size={window} stride={stride} pad={low}_{high} lhs_dilate={holes} "
        f"rhs_dilate={spread}}}, dim_labels=b0f_0io->b0f"
    )
    *_, one = work(
        f"%a = f32[2,{size},3]{{2,1,0}} parameter(0)",
        f"%b = f32[{window},3,7]{{2,1,0}} parameter(1)",
        f"ROOT %r = f32[2,{len(starts)},7]{{2,1,0}} convolution(%a, %b), {attributes}",
    )
    assert one.flops == 2 * 2 * 7 * 3 * pairs


SLICES = """\
%inner (q0: f32[24,8,128], q1: s32[]) -> f32[8,128] {
  %q0 = f32[24,8,128]{2,1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,8,128]{2,1,0} dynamic-slice(%q0, %q1, %zero, %zero)
}

%outer (p0: f32[24,8,128], p1: s32[], p2: f32[24,8,128]) -> f32[24,8,128] {
  %p0 = f32[24,8,128]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[24,8,128]{2,1,0} parameter(2)
  %one = f32[1,8,128]{2,1,0} fusion(%p0, %p1), kind=kLoop, calls=%inner
  %more = f32[1,8,128]{2,1,0} add(%one, %one)
  ROOT %put = f32[24,8,128]{2,1,0} dynamic-update-slice(%p2, %more, %p1)
}

"""


def test_a_fusion_that_takes_and_writes_a_slice_moves_no_more():
    *_, one = work(
        "%all = f32[24,8,128]{2,1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%kept = f32[24,8,128]{2,1,0} parameter(2)",
        "ROOT %f = f32[24,8,128]{2,1,0} fusion(%all, %i, %kept), kind=kLoop, calls=%outer",
        other=SLICES,
    )
    layer = 8 * 128 * 4
    assert one.bytes == layer + 4 + layer  # one is read, the index, one is written


def test_what_the_core_keeps_costs_no_traffic():
    near, far = work(
        "%x = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)",
        "%near = f32[8,128]{1,0:T(8,128)S(1)} negate(%x)",
        "ROOT %far = f32[8,128]{1,0:T(8,128)} negate(%near)",
    )
    assert near.bytes == 0 and far.bytes == 8 * 128 * 4


def test_what_is_fetched_for_later_is_counted_once_and_as_such():
    (start,) = work(
        "%x = f32[8,128]{1,0:T(8,128)} parameter(0)",
        "%s = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]) copy-start(%x)",
        "ROOT %d = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%s)",
    )
    assert start.ahead and start.bytes == 8 * 128 * 4


def test_the_compilers_own_estimate_is_read():
    *_, one = work(
        "%x = f32[8]{0} parameter(0)",
        'ROOT %y = f32[8]{0} negate(%x), backend_config={"w":{"estimated_cycles":"37"}}',
    )
    assert one.cycles == 37


@pytest.mark.parametrize("row", ["", "8,"])
@pytest.mark.parametrize(("kernel", "products"), [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_the_kernels_of_splash_form_their_products(row, kernel, products):
    text = f"""\
HloModule jit_step

ENTRY %main (q: bf16[4]) -> bf16[4] {{
  %ids = s32[{row}256]{{0}} parameter(0)
  %q = bf16[{row}4,256,128]{{2,1,0}} parameter(1)
  %k = bf16[{row}4,512,128]{{2,1,0}} parameter(2)
  ROOT %splash_mha_{kernel}_no_residuals.1 = bf16[{row}4,256,128]{{2,1,0}} custom-call(%ids, %q, %k, %k)
}}
"""  # noqa: E501
    rows = 8 if row else 1
    found = list_work(parse_program(text))
    assert sum(one.flops for one in found) == products * 2 * rows * 4 * 256 * 512 * 128
