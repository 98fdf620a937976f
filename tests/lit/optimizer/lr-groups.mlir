// RUN: athanor opt --passes optimizer %s | FileCheck %s

// A weight with a learning rate of its own reads its group's scalars; what does not depend on the rate is shared.
// CHECK-LABEL: func.func @update(
// CHECK-DAG: %[[V:[a-z0-9]+]]: tensor<f32> {nn.name = "v_scale", nn.role = "input"}
// CHECK-DAG: %[[LR:[a-z0-9]+]]: tensor<f32> {nn.name = "lr.1", nn.role = "input"}
// CHECK-DAG: %[[STEP:[a-z0-9]+]]: tensor<f32> {nn.name = "step_size.1", nn.role = "input"}
// CHECK: "nn.adam_w"(%{{[a-z0-9]+}}, %{{[a-z0-9]+}}, %{{[a-z0-9]+}}, %{{[a-z0-9]+}}, %[[LR]], %[[STEP]], %[[V]],
module attributes {nn.run = {lr_groups = [{lr = {learning_rate = 0.5, warmup_steps = 0, warmup_lr_init = 0.0, shape = {type = "Constant"}},
                                           weights = ["w"]}]}} {
  func.func @micro(%w: tensor<4x8xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<f32> {nn.name = "loss"}, tensor<4x8xf32> {nn.name = "grad.w"}) {
    %0 = "nn.constant"() {value = 1.0 : f64} : () -> tensor<f32>
    %1 = "nn.exp"(%w) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    return %0, %1 : tensor<f32>, tensor<4x8xf32>
  }
}
