// RUN: athanor opt --passes fuse %s | FileCheck %s

// A product that is added to an accumulated gradient, or to another product, is added where that lies. What is read
// elsewhere, too, is left alone.
// CHECK-LABEL: func.func @f(
// CHECK: %[[G:.*]] = "nn.einsum"(%arg0, %arg1, %arg2) {spec = "bk,bh->kh"}
// CHECK: %[[A:.*]] = "nn.einsum"(%arg0, %arg1) {spec = "bk,bk->b"}
// CHECK: %[[S:.*]] = "nn.einsum"(%arg1, %arg1, %[[A]]) {spec = "bk,bk->b"}
// CHECK: %[[P:.*]] = "nn.einsum"(%arg1, %arg0) {spec = "bk,bk->b"}
// CHECK: %[[Q:.*]] = "nn.add"(%[[P]], %[[P]])
// CHECK: return %[[G]], %[[S]], %[[Q]]
func.func @f(%dy: tensor<4x8xf32>, %x: tensor<4x8xf32>, %g: tensor<8x8xf32> {nn.name = "grad.w", nn.role = "grad"})
    -> (tensor<8x8xf32> {nn.name = "grad.w"}, tensor<4xf32> {nn.name = "s"}, tensor<4xf32> {nn.name = "q"}) {
  %0 = "nn.einsum"(%dy, %x) {spec = "bk,bh->kh"} : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<8x8xf32>
  %1 = "nn.add"(%g, %0) : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
  %2 = "nn.einsum"(%dy, %x) {spec = "bk,bk->b"} : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4xf32>
  %3 = "nn.einsum"(%x, %x) {spec = "bk,bk->b"} : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4xf32>
  %4 = "nn.add"(%2, %3) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %5 = "nn.einsum"(%x, %dy) {spec = "bk,bk->b"} : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4xf32>
  %6 = "nn.add"(%5, %5) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %1, %4, %6 : tensor<8x8xf32>, tensor<4xf32>, tensor<4xf32>
}
