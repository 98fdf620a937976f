// RUN: athanor opt --passes fuse %s | FileCheck %s

// silu(x) is read on both sides of a product, and x is kept anyway: each side computes it, and it is not stored.
// CHECK-LABEL: func.func @f(
// CHECK: %[[A:.*]] = call @[[K:[a-z0-9_]+]](%arg0, %arg1)
// CHECK-NEXT: %[[P:.*]] = "nn.einsum"(%[[A]], %arg2)
// CHECK-NEXT: %[[B:.*]] = call @{{[a-z0-9_]+}}(%arg0, %[[P]])
// CHECK-NEXT: return %[[B]]
// CHECK: func.func @[[K]](
// CHECK: "nn.silu"
// CHECK: "nn.mul"
func.func @f(%x: tensor<16x8xf32>, %y: tensor<16x8xf32>, %w: tensor<8x8xf32>) -> tensor<16x8xf32> {
  %0 = "nn.silu"(%x) : (tensor<16x8xf32>) -> tensor<16x8xf32>
  %1 = "nn.mul"(%0, %y) : (tensor<16x8xf32>, tensor<16x8xf32>) -> tensor<16x8xf32>
  %2 = "nn.einsum"(%1, %w) {spec = "bh,kh->bk"} : (tensor<16x8xf32>, tensor<8x8xf32>) -> tensor<16x8xf32>
  %3 = "nn.mul"(%0, %2) : (tensor<16x8xf32>, tensor<16x8xf32>) -> tensor<16x8xf32>
  %4 = "nn.sub"(%3, %x) : (tensor<16x8xf32>, tensor<16x8xf32>) -> tensor<16x8xf32>
  return %4 : tensor<16x8xf32>
}
