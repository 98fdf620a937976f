// RUN: not athanor opt %s 2>&1 | FileCheck %s

// A state that lies on the host is left there.
// CHECK: M0001
// CHECK: result adam_m.w is on the device, not on the host
module attributes {nn.level = "train"} {
  func.func @update(%m: tensor<4x8xf32> {nn.name = "adam_m.w", nn.role = "moment", nn.memory = "host"})
      -> (tensor<4x8xf32> {nn.name = "adam_m.w"}) {
    %0 = "nn.from_host"(%m) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    %1 = "nn.tanh"(%0) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    return %1 : tensor<4x8xf32>
  }
}
