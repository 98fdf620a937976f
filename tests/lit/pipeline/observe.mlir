// RUN: athanor opt --passes dce,dce --print-before --print-after=dce --until dce %s 2>&1 | FileCheck %s
// RUN: athanor opt --passes dce --dump-ir %t/ir %s | FileCheck %s --check-prefix ONCE
// RUN: athanor opt --passes '' %t/ir/00_input.mlir | FileCheck %s --check-prefix BEFORE
// RUN: athanor opt --passes dce %t/ir/01_dce.mlir | FileCheck %s --check-prefix ONCE
// RUN: athanor opt --passes dce --timing %s -o %t/out.mlir 2>&1 | FileCheck %s --check-prefix TIME
// RUN: not athanor opt --passes dce --until fuse %s 2>&1 | FileCheck %s --check-prefix UNTIL
// RUN: not athanor opt --passes 'dce{x=1}' %s 2>&1 | FileCheck %s --check-prefix OPTION
// RUN: not athanor opt --passes dcee %s 2>&1 | FileCheck %s --check-prefix UNKNOWN
// RUN: not athanor opt --passes 'dce,' %s 2>&1 | FileCheck %s --check-prefix SYNTAX

// CHECK: IR Dump Before dce
// CHECK: "nn.exp"
// CHECK: IR Dump After dce
// CHECK-NOT: "nn.exp"
// ONCE-NOT: "nn.exp"
// ONCE: return
// BEFORE: "nn.exp"
// TIME: pass (ms)
// TIME: dce
// TIME: total
// UNTIL: P0001
// UNTIL: the pipeline has no pass "fuse"
// OPTION: P0002
// OPTION: dce has no options
// UNKNOWN: P0001
// UNKNOWN: did you mean `dce`?
// SYNTAX: P0004
// SYNTAX: expected a pass name at byte 4
func.func @f(%a: tensor<2xf32>) -> tensor<2xf32> {
  %0 = "nn.exp"(%a) : (tensor<2xf32>) -> tensor<2xf32>
  return %a : tensor<2xf32>
}
