// RUN: athanor opt --passes dce %s | FileCheck %s

// A chain that nothing reads goes as a whole; an op of which one of two results is read stays; parameters stay.
// CHECK-LABEL: func.func @f(
// CHECK: %[[X:[a-z0-9]+]]: tensor<2x3xf32> {nn.name = "x", nn.role = "input"}
// CHECK-NOT: nn.exp
// CHECK-NOT: nn.tanh
// CHECK: %[[CE:[0-9]+]]:2 = "nn.cross_entropy"
// CHECK-NEXT: return %[[CE]]#0
func.func @f(%x: tensor<2x3xf32> {nn.name = "x", nn.role = "input"},
             %y: tensor<2xi32> {nn.name = "y", nn.role = "input"},
             %unused: tensor<f64> {nn.name = "unused", nn.role = "moment"}) -> (tensor<2xf32> {nn.name = "loss"}) {
  %0 = "nn.exp"(%x) : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %1 = "nn.tanh"(%0) : (tensor<2x3xf32>) -> tensor<2x3xf32>
  %loss, %lse = "nn.cross_entropy"(%x, %y) : (tensor<2x3xf32>, tensor<2xi32>) -> (tensor<2xf32>, tensor<2xf32>)
  return %loss : tensor<2xf32>
}
