// RUN: athanor opt --passes fuse %s | FileCheck %s

// exp and mul share a space, but the product between them would be inside: mul reads exp from memory.
// CHECK-LABEL: func.func @f(
// CHECK-NEXT: %arg0
// CHECK: %[[E:.*]] = "nn.exp"(%arg0)
// CHECK-NEXT: %[[P:.*]] = "nn.einsum"(%[[E]], %arg1)
// CHECK-NEXT: %[[M:.*]] = "nn.mul"(%[[E]], %[[P]])
// CHECK-NEXT: return %[[M]]
// CHECK-NOT: func.func @fused
func.func @f(%x: tensor<16x8xf32>, %w: tensor<8x8xf32>) -> tensor<16x8xf32> {
  %0 = "nn.exp"(%x) : (tensor<16x8xf32>) -> tensor<16x8xf32>
  %1 = "nn.einsum"(%0, %w) {spec = "bh,kh->bk"} : (tensor<16x8xf32>, tensor<8x8xf32>) -> tensor<16x8xf32>
  %2 = "nn.mul"(%0, %1) : (tensor<16x8xf32>, tensor<16x8xf32>) -> tensor<16x8xf32>
  return %2 : tensor<16x8xf32>
}
