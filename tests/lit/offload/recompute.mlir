// RUN: athanor opt --passes autodiff,recompute,offload %s | FileCheck %s

// Layer 1 is computed again from what it reads, which is all that is left of it to go.
// CHECK: done = {{{.*}}values = 1 : i64}
// CHECK-LABEL: func.func @micro(
// CHECK: %[[X:.*]] = "nn.einsum"({{.*}}%arg2)
// CHECK-NEXT: %[[XH:.*]] = "nn.to_host"(%[[X]])
// CHECK-NOT: nn.to_host
// CHECK: %[[XB:.*]] = "nn.from_host"(%[[XH]])
// CHECK-NEXT: %[[P:.*]] = "nn.einsum"(%[[XB]], %arg3)
// CHECK-NEXT: "nn.tanh"(%[[P]])
// CHECK: return
module attributes {nn.level = "model", nn.run = {
    offload = {values = [{layers = ["model.layers.1"], prefetch = 0 : i64}]}, recompute = {layers = ["model.layers.1"]}}} {
  func.func @forward(
      %x: tensor<4x8xf32> {nn.name = "x", nn.role = "input"},
      %a: tensor<8x8xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %b: tensor<8x8xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %c: tensor<8x8xf32> {nn.name = "c", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %1 = "nn.tanh"(%0) : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %2 = "nn.einsum"(%1, %b) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %3 = "nn.einsum"(%2, %c) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.1.mlp")
    %4 = "nn.tanh"(%3) : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.1.mlp")
    %5 = "nn.reduce"(%4) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<4x8xf32>) -> tensor<f32>
    return %5 : tensor<f32>
  }
}
