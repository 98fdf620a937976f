// RUN: athanor opt --passes fuse %s | FileCheck %s

// Both differences could join what they subtract from; then each group would wait for the other through the products
// between them. One of them stays apart.
// CHECK-LABEL: func.func @f(
// CHECK: %[[M:.*]] = "nn.sigmoid"(%arg1)
// CHECK-NEXT: %[[E:.*]] = "nn.einsum"(%[[M]], %arg2)
// CHECK-NEXT: %[[G:.*]]:2 = call @{{[a-z0-9_]+}}(%arg0, %[[E]])
// CHECK-NEXT: %[[A:.*]] = "nn.einsum"(%[[G]]#0, %arg2)
// CHECK-NEXT: %[[S:.*]] = "nn.sub"(%[[M]], %[[A]])
// CHECK-NEXT: return %[[G]]#1, %[[S]]
func.func @f(%x: tensor<8x16xf32>, %z: tensor<8x16xf32>, %w: tensor<16x16xf32>) -> (tensor<8x16xf32>, tensor<8x16xf32>) {
  %u = "nn.tanh"(%x) : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %a = "nn.einsum"(%u, %w) {spec = "ab,cb->ac"} : (tensor<8x16xf32>, tensor<16x16xf32>) -> tensor<8x16xf32>
  %m = "nn.sigmoid"(%z) : (tensor<8x16xf32>) -> tensor<8x16xf32>
  %e = "nn.einsum"(%m, %w) {spec = "ab,cb->ac"} : (tensor<8x16xf32>, tensor<16x16xf32>) -> tensor<8x16xf32>
  %0 = "nn.sub"(%u, %e) : (tensor<8x16xf32>, tensor<8x16xf32>) -> tensor<8x16xf32>
  %1 = "nn.sub"(%m, %a) : (tensor<8x16xf32>, tensor<8x16xf32>) -> tensor<8x16xf32>
  return %0, %1 : tensor<8x16xf32>, tensor<8x16xf32>
}
