"""The text of compiled programs: shapes, calls, and how often each computation runs."""

import pytest

from transformer_jax.planning.hlo import parse_program, parse_shapes

LOOPS = """\
HloModule jit_step, is_scheduled=true

%fused (p0: f32[4]) -> f32[4] {
  %p0 = f32[4]{0:T(128)} parameter(0)
  ROOT %twice = f32[4]{0:T(128)} add(%p0, %p0)
}

%inner_condition (a: (s32[], f32[4])) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  %a = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%a), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %three), direction=LT
}

%inner_body (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  %b = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %x = f32[4]{0:T(128)} get-tuple-element(%b), index=1
  %y = f32[4]{0:T(128)} fusion(%x), kind=kLoop, calls=%fused
  ROOT %out = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%i, %y)
}

%outer_body (c: (s32[], f32[4])) -> (s32[], f32[4]) {
  %c = (s32[]{:T(128)}, /*index=1*/f32[4]{0:T(128)}) parameter(0)
  ROOT %loop = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%c), condition=%inner_condition, body=%inner_body
}

%by_data (d: (s32[], f32[4])) -> pred[] {
  %d = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  ROOT %any = pred[]{:T(512)} custom-call(%d), custom_call_target="Any"
}

ENTRY %main (q: f32[4]) -> f32[4] {
  %q = f32[4]{0:T(128)} parameter(0)
  %start = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%zero, %q)
  %five = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%start), condition=%unused, body=%outer_body, backend_config={"known_trip_count":{"n":"5"}}
  %some = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%five), condition=%by_data, body=%inner_body
  ROOT %end = f32[4]{0:T(128)} get-tuple-element(%some), index=1
}

%unused (e: (s32[], f32[4])) -> pred[] {
  %e = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  ROOT %no = pred[]{:T(512)} constant(false)
}
"""  # noqa: E501


def test_a_computation_runs_as_often_as_the_loops_around_it_turn():
    program = parse_program(LOOPS)
    assert program.entry == "main"
    runs = program.runs
    assert runs["outer_body"] == 5
    assert runs["inner_condition"] == 5 * 4  # once more than the body
    assert runs["inner_body"] == runs["fused"] == 5 * 3 + 1


def test_a_loop_whose_data_decides_is_counted_once_and_told():
    assert parse_program(LOOPS).unknown_loops == 1


def test_a_loop_may_count_in_larger_steps():
    body = """\
%inner_body (b: (s32[], f32[4])) -> (s32[], f32[4]) {
  %b = (s32[]{:T(128)}, f32[4]{0:T(128)}) parameter(0)
  %two = s32[]{:T(128)} constant(2)
  %now = s32[]{:T(128)} get-tuple-element(%b), index=0
  %next = s32[]{:T(128)} add(%now, %two)
"""
    begin = LOOPS.index("%inner_body (b")
    text = LOOPS[:begin] + body + LOOPS[LOOPS.index("  %x = f32[4]", begin) :]
    text = text.replace("tuple(%i, %y)", "tuple(%next, %y)")
    assert parse_program(text).runs["inner_body"] == 5 * 2 + 1  # 0 and 2 are below 3


def test_instructions_have_operands_attributes_and_shapes():
    body = parse_program(LOOPS).computations["inner_body"]
    assert body["y"].operands == ("x",) and body["y"].called == ["fused"]
    assert body["y"].attribute("kind") == "kLoop" and body["out"].is_root
    assert [shape.type for shape in body["b"].shapes] == ["s32", "f32"]


def test_shapes_have_bytes_and_a_place():
    near, far, scalar = parse_shapes(
        "(bf16[2,512,4]{2,1,0:T(8,128)(2,1)S(1)}, f32[512,4]{0,1:T(8,128)}, s32[]{:T(128)})"
    )
    assert not near.in_hbm and far.in_hbm
    assert near.bytes == 2 * 512 * 4 * 2 and scalar.bytes == 4
    assert near.padded_bytes == 2 * 512 * 128 * 2  # 4 fills a tile of 128
    assert far.padded_bytes == 512 * 8 * 4  # the other way round: 512 innermost, 4 fills 8


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        parse_program("HloModule nothing")


def test_an_instruction_may_have_several_lines():
    """As the kernels of Pallas do, by what they say of themselves."""
    text = """\
HloModule jit_step

%on_other_cores (p: f32[4]) -> f32[4] {
  ROOT %p = f32[4]{0} parameter(0)
}, execution_thread="sparsecore"

ENTRY %main (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  %kernel = f32[4]{0} custom-call(%q), custom_call_target="tpu_custom_call", kernel_metadata={
"block_q": "512"
}}, backend_config={"flops":"8"}
  ROOT %end = f32[4]{0} fusion(%kernel), kind=kLoop, calls=%on_other_cores
}
"""
    program = parse_program(text)
    assert set(program.computations) == {"on_other_cores", "main"}
    main = program.computations["main"]
    assert list(main) == ["q", "kernel", "end"]
    assert main["kernel"].attributes.endswith('"block_q": "512"}}, backend_config={"flops":"8"}')
