// RUN: athanor opt --passes fuse %s | FileCheck %s

// Groups with equal bodies call one function: two layers, one kernel.
// CHECK-LABEL: func.func @f(
// CHECK: call @[[K:[a-z0-9_]+]](
// CHECK: "nn.einsum"
// CHECK: call @[[K]](
// CHECK: func.func @[[K]](
// CHECK-NOT: func.func
func.func @f(%x: tensor<16x8xf32>, %w: tensor<8x8xf32>) -> tensor<16x8xf32> {
  %0 = "nn.exp"(%x) : (tensor<16x8xf32>) -> tensor<16x8xf32> loc("layers.0")
  %1 = "nn.mul"(%0, %x) : (tensor<16x8xf32>, tensor<16x8xf32>) -> tensor<16x8xf32> loc("layers.0")
  %2 = "nn.einsum"(%1, %w) {spec = "bh,kh->bk"} : (tensor<16x8xf32>, tensor<8x8xf32>) -> tensor<16x8xf32>
  %3 = "nn.exp"(%2) : (tensor<16x8xf32>) -> tensor<16x8xf32> loc("layers.1")
  %4 = "nn.mul"(%3, %2) : (tensor<16x8xf32>, tensor<16x8xf32>) -> tensor<16x8xf32> loc("layers.1")
  return %4 : tensor<16x8xf32>
}
