// RUN: not athanor opt --passes '' %s 2>&1 | FileCheck %s
// CHECK: M0002
// CHECK: unregistered operation 'nn.expp'
// CHECK: unknown-op.mlir:7:8
// CHECK: help:
func.func @f(%a: tensor<2xf32>) -> tensor<2xf32> {
  %0 = "nn.expp"(%a) : (tensor<2xf32>) -> tensor<2xf32>
  return %0 : tensor<2xf32>
}
