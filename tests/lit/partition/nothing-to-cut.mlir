// RUN: not athanor opt --passes partition %s 2>&1 | FileCheck %s

// A norm needs all of its dim, and there is nothing else for tp.
// CHECK: P0501
// CHECK: axis tp of 2 has nothing to cut
module attributes {nn.mesh = [["tp", 2]]} {
  func.func @forward(
      %x: tensor<4x8xf32> {nn.name = "x", nn.role = "input"},
      %g: tensor<8xf32> {nn.name = "g", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<4x8xf32> {nn.name = "y"}) {
    %0 = "nn.rms_norm"(%x, %g) {eps = 1.0e-5 : f64} : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
    return %0 : tensor<4x8xf32>
  }
}
