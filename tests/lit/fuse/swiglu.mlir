// RUN: athanor opt --passes fuse %s | FileCheck %s

// silu(gate)·up between three products is one kernel, in which nothing is stored.
// CHECK-LABEL: func.func @f(
// CHECK: %[[G:.*]] = "nn.einsum"(%arg0, %arg1)
// CHECK: %[[U:.*]] = "nn.einsum"(%arg0, %arg2)
// CHECK: %[[A:.*]] = call @[[K:[a-z0-9_]+]](%[[G]], %[[U]])
// CHECK: "nn.einsum"(%[[A]], %arg3)
// CHECK: func.func @[[K]](
// CHECK-NEXT: %arg0: tensor<8x16xf32>
// CHECK-NEXT: %arg1: tensor<8x16xf32>
// CHECK-NEXT: tensor<8x16xf32> {nn.name = "r0"}) {
// CHECK-NEXT: %[[S:.*]] = "nn.silu"(%arg0)
// CHECK-NEXT: %[[M:.*]] = "nn.mul"(%[[S]], %arg1)
// CHECK-NEXT: return %[[M]]
func.func @f(%x: tensor<8x8xf32>, %gate: tensor<16x8xf32>, %up: tensor<16x8xf32>, %down: tensor<8x16xf32>) -> tensor<8x8xf32> {
  %0 = "nn.einsum"(%x, %gate) {spec = "bh,kh->bk"} : (tensor<8x8xf32>, tensor<16x8xf32>) -> tensor<8x16xf32>
  %1 = "nn.silu"(%0) : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %2 = "nn.einsum"(%x, %up) {spec = "bh,kh->bk"} : (tensor<8x8xf32>, tensor<16x8xf32>) -> tensor<8x16xf32>
  %3 = "nn.mul"(%1, %2) : (tensor<8x16xf32>, tensor<8x16xf32>) -> tensor<8x16xf32>
  %4 = "nn.einsum"(%3, %down) {spec = "bk,hk->bh"} : (tensor<8x16xf32>, tensor<8x16xf32>) -> tensor<8x8xf32>
  return %4 : tensor<8x8xf32>
}
