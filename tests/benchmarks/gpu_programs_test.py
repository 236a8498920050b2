from benchmarks import gpu_programs

# A loop of five iterations with a copy, a fusion and a cuDNN call, shortened from a compiled program.
TEXT = """\
HloModule jit_run, is_scheduled=true

%fused_compare (param_0: s32[]) -> pred[] {
  %param_0 = s32[] parameter(0)
  %constant_5 = s32[] constant(5)
  ROOT %lt.1 = pred[] compare(%param_0, %constant_5), direction=LT
}

%fused_add (param_0.1: s32[]) -> s32[] {
  %param_0.1 = s32[] parameter(0)
  %constant_1 = s32[] constant(1)
  ROOT %add.1 = s32[] add(%param_0.1, %constant_1)
}

%body (arg: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %arg = (s32[], f32[8,4]{1,0}) parameter(0)
  %step = s32[] get-tuple-element(%arg), index=0
  %h = f32[8,4]{1,0} get-tuple-element(%arg), index=1
  %cudnn-conv = (f32[8,4]{1,0}, u8[0]{0}) custom-call(%h), custom_call_target="__cudnn$convForward"
  %value = f32[8,4]{1,0} get-tuple-element(%cudnn-conv), index=0
  %next = s32[] fusion(%step), kind=kLoop, calls=%fused_add
  %kept = f32[8,4]{1,0} copy(%value)
  ROOT %result = (s32[], f32[8,4]{1,0}) tuple(%next, %kept)
}

%condition (arg.1: (s32[], f32[8,4])) -> pred[] {
  %arg.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %step.1 = s32[] get-tuple-element(%arg.1), index=0
  ROOT %loop_compare_fusion = pred[] fusion(%step.1), kind=kLoop, calls=%fused_compare
}

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = s32[] copy(%zero)
  %first = (s32[], f32[8,4]{1,0}) tuple(%start, %x)
  %while.1 = (s32[], f32[8,4]{1,0}) while(%first), condition=%condition, body=%body
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%while.1), index=1
}
"""


def test_kernels_are_counted_by_loop():
  counted = gpu_programs.count(TEXT)
  assert counted == gpu_programs.Count(loops=((5, 3, 1),), outside=1, cudnn_outside=0)
  assert counted.total == 1 + 5 * 3


def test_the_table_names_a_program_without_a_loop():
  assert "| no loop | 2 (1 of cuDNN) | 2 |" in gpu_programs.row("a", gpu_programs.Count((), 2, 1), 10**6, 1.0)
