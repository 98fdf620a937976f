// RUN: not athanor opt --passes autodiff %s 2>&1 | FileCheck %s
// CHECK: P0102
// CHECK: help:
module attributes {nn.level = "model"} {
  func.func @forward(%x: tensor<4xf32>) -> (tensor<4xf32> {nn.name = "logits"}) {
    return %x : tensor<4xf32>
  }
}
