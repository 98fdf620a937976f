// RUN: athanor opt --passes autodiff,fuse,recompute %s | FileCheck %s

// The residual sum of layer 0 and the norm of layer 1 are one kernel. The sum is kept for layer 1 to start from, and the
// copy is of the norm alone. Ops of a shared body say where they are relative to the call.
// CHECK-LABEL: func.func @micro(
// CHECK: %[[R:.*]]:2 = call @[[K:[a-z0-9_]+]](
// CHECK: %[[N:.*]] = "nn.rms_norm"(%[[R]]#{{[01]}}, %arg3)
// CHECK-NEXT: "nn.einsum"({{.*}}%[[N]]{{.*}})
// CHECK: func.func @[[K]](
// CHECK: "nn.add"{{.*}}loc("model.layers.*-1")
// CHECK: "nn.rms_norm"{{.*}}loc("model.layers.*.norm")
module attributes {nn.level = "model", nn.run = {recompute = {layers = ["model.layers.1"]}}} {
  func.func @forward(
      %x: tensor<8x16xf32> {nn.name = "x", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %y: tensor<8x16xf32> {nn.name = "y", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %w: tensor<16x16xf32> {nn.name = "w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %gain: tensor<16xf32> {nn.name = "gain", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.add"(%x, %y) : (tensor<8x16xf32>, tensor<8x16xf32>) -> tensor<8x16xf32> loc("model.layers.0")
    %1 = "nn.rms_norm"(%0, %gain) {eps = 1.0e-5 : f64} : (tensor<8x16xf32>, tensor<16xf32>) -> tensor<8x16xf32> loc("model.layers.1.norm")
    %2 = "nn.einsum"(%1, %w) {spec = "bh,kh->bk"} : (tensor<8x16xf32>, tensor<16x16xf32>) -> tensor<8x16xf32> loc("model.layers.1")
    %3 = "nn.add"(%0, %2) : (tensor<8x16xf32>, tensor<8x16xf32>) -> tensor<8x16xf32> loc("model.layers.1")
    %4 = "nn.square"(%3) : (tensor<8x16xf32>) -> tensor<8x16xf32> loc("loss")
    %5 = "nn.reduce"(%4) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<8x16xf32>) -> tensor<f32>
    return %5 : tensor<f32>
  }
}
