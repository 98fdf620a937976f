// RUN: athanor opt --passes 'fuse{loss-blocks=2}' %s | FileCheck %s

// What looks like the loss but sums the gradient of the logits over other dims is left whole: here the "gradient of the
// weight" pairs token with vocabulary.
// CHECK-LABEL: func.func @micro(
// CHECK: "nn.einsum"(%arg0, %arg1) {spec = "bh,vh->bv"} : {{.*}} -> tensor<8x8xf32>
// CHECK-NOT: nn.concat
func.func @micro(%x: tensor<8x8xf32>, %w: tensor<8x8xf32>, %labels: tensor<8xi32>, %d: tensor<8xf32>)
    -> (tensor<8xf32>, tensor<8x8xf32>, tensor<8x8xf32>) {
  %0 = "nn.einsum"(%x, %w) {spec = "bh,vh->bv"} : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
  %1:2 = "nn.cross_entropy"(%0, %labels) : (tensor<8x8xf32>, tensor<8xi32>) -> (tensor<8xf32>, tensor<8xf32>)
  %2 = "nn.cross_entropy_grad"(%0, %labels, %1#1, %d) : (tensor<8x8xf32>, tensor<8xi32>, tensor<8xf32>, tensor<8xf32>) -> tensor<8x8xf32>
  %3 = "nn.einsum"(%2, %w) {spec = "bv,vh->bh"} : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
  %4 = "nn.einsum"(%2, %x) {spec = "bv,vh->bh"} : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32>
  return %1#0, %4, %3 : tensor<8xf32>, tensor<8x8xf32>, tensor<8x8xf32>
}
