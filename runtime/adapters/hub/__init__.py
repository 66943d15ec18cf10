"""The Azure IoT Hub: MQTT by azure-iot-device, its HTTPS side, file upload."""
