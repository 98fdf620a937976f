// RUN: athanor opt --passes fuse %s | FileCheck %s

// Scalars and other small values are not worth a kernel: they stay ops.
// CHECK-NOT: call @
// CHECK: "nn.exp"
// CHECK: "nn.tanh"
// CHECK-NOT: call @
func.func @f(%x: tensor<f32>) -> tensor<f32> {
  %0 = "nn.exp"(%x) : (tensor<f32>) -> tensor<f32>
  %1 = "nn.tanh"(%0) : (tensor<f32>) -> tensor<f32>
  return %1 : tensor<f32>
}
