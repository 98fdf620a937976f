// RUN: athanor opt --passes autodiff,offload %s | FileCheck %s
// RUN: athanor opt --passes autodiff,offload,offload %s | FileCheck %s

// What the backward pass of layer 1 reads goes to the host behind the op that made it: its tanh, and the input that layer 0
// made. The weight does not, nor does the tanh of layer 0.
// CHECK: done = {bytes = 256 : i64, moment_bytes = 0 : i64, moments = 0 : i64, values = 2 : i64}
// CHECK-LABEL: func.func @micro(
// CHECK: %[[H:.*]] = "nn.tanh"
// CHECK-NEXT: %[[X:.*]] = "nn.einsum"(%[[H]], %arg2)
// CHECK-NEXT: %[[XH:.*]] = "nn.to_host"(%[[X]])
// CHECK-NEXT: %[[P:.*]] = "nn.einsum"(%[[X]], %arg3)
// CHECK-NEXT: %[[Y:.*]] = "nn.tanh"(%[[P]])
// CHECK-NEXT: %[[YH:.*]] = "nn.to_host"(%[[Y]])
// CHECK: %[[YB:.*]] = "nn.from_host"(%[[YH]])
// CHECK-NEXT: "nn.square"(%[[YB]])
// CHECK: %[[XB:.*]] = "nn.from_host"(%[[XH]])
// CHECK-NEXT: "nn.einsum"({{.*}}%[[XB]])
// CHECK-NOT: nn.to_host
// CHECK-NOT: nn.from_host
// CHECK: return
module attributes {nn.level = "model", nn.run = {offload = {values = [{layers = ["model.layers.1"], prefetch = 0 : i64}]}}} {
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
