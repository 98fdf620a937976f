// RUN: athanor opt --passes autodiff,recompute %s | FileCheck %s

// An operator that is to be kept is kept, even in a layer that is recomputed as a whole.
// CHECK: values = 1 : i64
// CHECK-LABEL: func.func @micro(
// CHECK: %[[P:.*]] = "nn.einsum"(%arg0, %arg1)
// CHECK: "nn.reduce"
// CHECK-NOT: "nn.einsum"(%arg0, %arg1)
// CHECK: "nn.silu"(%[[P]])
// CHECK: return
module attributes {nn.level = "model", nn.run = {recompute = {
    keep = [{layers = ["model.layers.0"], paths = ["mlp.einsum"]}], layers = ["model.layers.0"]}}} {
  func.func @forward(
      %x: tensor<4x8xf32> {nn.name = "x", nn.role = "input"},
      %a: tensor<8x8xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %b: tensor<8x8xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %1 = "nn.silu"(%0) : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %2 = "nn.einsum"(%1, %b) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %3 = "nn.reduce"(%2) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<4x8xf32>) -> tensor<f32>
    return %3 : tensor<f32>
  }
}
