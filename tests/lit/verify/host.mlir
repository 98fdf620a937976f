// RUN: not athanor opt %s 2>&1 | FileCheck %s

// What lies on the host is read by copies back alone.
// CHECK: M0001
// CHECK: op 1 (nn.tanh in "") reads a value on the host
module attributes {nn.level = "train"} {
  func.func @micro(%x: tensor<4x8xf32> {nn.name = "x", nn.role = "input"}) -> (tensor<4x8xf32> {nn.name = "y"}) {
    %0 = "nn.to_host"(%x) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    %1 = "nn.tanh"(%0) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    return %1 : tensor<4x8xf32>
  }
}
