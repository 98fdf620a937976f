// RUN: athanor opt --passes fuse %s | FileCheck %s

// An element-wise chain between two products becomes one function; only what is read outside leaves it.
// CHECK: nn.level = "kernel"
// CHECK-LABEL: func.func @f(
// CHECK: %[[A:.*]] = "nn.einsum"(%arg0, %arg1)
// CHECK-NEXT: %[[B:.*]] = call @[[K:[a-z0-9_]+]](%[[A]]) : (tensor<16x8xf32>) -> tensor<16x8xf32>
// CHECK-NEXT: %[[C:.*]] = "nn.einsum"(%[[B]], %arg1)
// CHECK-NEXT: return %[[C]]
// CHECK: func.func @[[K]](
// CHECK-DAG: "nn.exp"
// CHECK-DAG: "nn.tanh"
// CHECK-DAG: "nn.mul"
func.func @f(%x: tensor<16x8xf32>, %w: tensor<8x8xf32>) -> tensor<16x8xf32> {
  %0 = "nn.einsum"(%x, %w) {spec = "bh,kh->bk"} : (tensor<16x8xf32>, tensor<8x8xf32>) -> tensor<16x8xf32>
  %1 = "nn.exp"(%0) : (tensor<16x8xf32>) -> tensor<16x8xf32>
  %2 = "nn.tanh"(%0) : (tensor<16x8xf32>) -> tensor<16x8xf32>
  %3 = "nn.mul"(%1, %2) : (tensor<16x8xf32>, tensor<16x8xf32>) -> tensor<16x8xf32>
  %4 = "nn.einsum"(%3, %w) {spec = "bh,kh->bk"} : (tensor<16x8xf32>, tensor<8x8xf32>) -> tensor<16x8xf32>
  return %4 : tensor<16x8xf32>
}
