// RUN: not athanor opt --passes '' %s 2>&1 | FileCheck %s
// CHECK: M0001
// CHECK: @f: op 0 (nn.einsum in "model.layers.0.mlp"): gives (tensor<2x5xf32>), declared as (tensor<5x2xf32>)
func.func @f(%a: tensor<2x3xf32>, %b: tensor<5x3xf32>) -> tensor<5x2xf32> {
  %0 = "nn.einsum"(%a, %b) {spec = "bh,kh->bk"} : (tensor<2x3xf32>, tensor<5x3xf32>) -> tensor<5x2xf32>
    loc("model.layers.0.mlp"("x.yaml":12:3))
  return %0 : tensor<5x2xf32>
}
