// RUN: athanor opt --passes autodiff,optimizer,slice-sequences %s | FileCheck %s

// Two slices of four tokens. Keys, which are values too, go behind those of the slices before; queries are told where they are.
// CHECK-LABEL: func.func @micro(
// CHECK: tensor<1x8xi32> {nn.name = "tokens", nn.role = "input"}
// CHECK: tensor<i32> {nn.name = "slice.first", nn.role = "input"}
// CHECK: tensor<1x8x1x4xf32> {nn.name = "keys.model.layers.0", nn.role = "cache"}
// CHECK: %[[TOKENS:.*]] = "nn.own_slice"({{.*}}) {dim = 1 : i64, len = 4 : i64} : (tensor<1x8xi32>, tensor<i32>) -> tensor<1x4xi32>
// CHECK: "nn.embed"(%[[TOKENS]]
// CHECK: %[[KEYS:.*]] = "nn.keep_slice"({{.*}}) {dim = 1 : i64} : (tensor<1x8x1x4xf32>, tensor<1x4x1x4xf32>, tensor<i32>)
// CHECK: "nn.attention"({{.*}}, %[[KEYS]], %[[KEYS]], {{.*}}) {{.*}} : (tensor<1x4x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>, tensor<i32>)

// Going back, each slice adds to the gradients of all keys and takes those of its own.
// CHECK: %[[GRAD:.*]]:3 = "nn.attention_grad"
// CHECK: %[[SUM:.*]] = "nn.sum_slices"({{.*}}, %[[GRAD]]#1, {{.*}}) {begin = 4 : i64}
// CHECK: "nn.own_slice"(%[[SUM]]
module attributes {nn.level = "model", nn.mesh = [["pp", 2]], nn.run = {
    accumulation = 2 : i64, pipeline = {layers = [[1 : i64, 0 : i64]], schedule = "seqpipe", slices = 2 : i64}}} {
  func.func @forward(
      %x: tensor<1x8xi32> {nn.name = "tokens", nn.role = "input"},
      %w: tensor<16x4xf32> {nn.name = "w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.embed"(%x, %w) : (tensor<1x8xi32>, tensor<16x4xf32>) -> tensor<1x8x4xf32> loc("model.layers.0")
    %1 = "nn.reshape"(%0) : (tensor<1x8x4xf32>) -> tensor<1x8x1x4xf32> loc("model.layers.0")
    %2:2 = "nn.attention"(%1, %1, %1) {scale = 0.5 : f64, causal = true, alibi = false} : (tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>, tensor<1x8x1x4xf32>) -> (tensor<1x8x1x4xf32>, tensor<1x1x8xf32>) loc("model.layers.0")
    %3 = "nn.reduce"(%2#0) {kind = "sum", dims = array<i64: 0, 1, 2, 3>} : (tensor<1x8x1x4xf32>) -> tensor<f32> loc("loss")
    return %3 : tensor<f32>
  }
}
