// RUN: not athanor opt --passes autodiff,optimizer,split-stages %s 2>&1 | FileCheck %s

// CHECK: P0701
// CHECK: axis pp has 4 ranks, and the run says nothing of so many stages
module attributes {nn.level = "model", nn.mesh = [["pp", 4]], nn.run = {
    accumulation = 2 : i64, pipeline = {layers = [[1 : i64, 1 : i64]], schedule = "1f1b"}}} {
  func.func @forward(
      %x: tensor<2x4xf32> {nn.name = "x", nn.role = "input"},
      %a: tensor<4x4xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %b: tensor<4x4xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.0")
    %1 = "nn.einsum"(%0, %b) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.1")
    %2 = "nn.reduce"(%1) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<2x4xf32>) -> tensor<f32> loc("loss")
    return %2 : tensor<f32>
  }
}
