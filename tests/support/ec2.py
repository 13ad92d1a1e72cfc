"""EC2 as tests see it: instances in moto, which answers AWS's own API on a loopback port."""

import os
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer

# The region that the examples of inventory/ name.
REGION = "eu-central-1"
TAG = "mlflow-ansible"


class EC2:
    """An account with instances.

    Args:
        url: Where its API answers.
    """

    def __init__(self, url: str):
        # For boto3, the inventory plugin and the modules alike; nothing of the operator's own.
        self.environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "no_proxy": "127.0.0.1",
        }
        self.client = boto3.client(
            "ec2",
            REGION,
            endpoint_url=url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self.subnets: dict[str, str] = {}

    def subnet(self, address: str) -> str:
        """Return the subnet of a private address: AWS gives no other."""
        network = f"{address.rpartition('.')[0]}.0/24"
        if network not in self.subnets:
            vpc = self.client.create_vpc(CidrBlock=network)["Vpc"]["VpcId"]
            made = self.client.create_subnet(VpcId=vpc, CidrBlock=network)
            self.subnets[network] = made["Subnet"]["SubnetId"]
        return self.subnets[network]

    def run(self, address: str, public: bool = False, **tags: str) -> dict:
        """Run an instance with that private address and return it as AWS describes it.

        Args:
            address: Its private address.
            public: Whether it also gets a public one, which AWS chooses.
            tags: Its tags; `role` stands for the one that the inventory goes by.
        """
        tags = {TAG if name == "role" else name: value for name, value in tags.items()}
        interface = {
            "DeviceIndex": 0,
            "SubnetId": self.subnet(address),
            "PrivateIpAddress": address,
            "AssociatePublicIpAddress": public,
        }
        pairs = [{"Key": name, "Value": value} for name, value in tags.items()]
        made = self.client.run_instances(
            ImageId="ami-12345678",
            MinCount=1,
            MaxCount=1,
            NetworkInterfaces=[interface],
            TagSpecifications=[{"ResourceType": "instance", "Tags": pairs}] if pairs else [],
        )
        return self.describe(made["Instances"][0]["InstanceId"])

    def describe(self, instance: str) -> dict:
        found = self.client.describe_instances(InstanceIds=[instance])
        return found["Reservations"][0]["Instances"][0]

    def stop(self, instance: str) -> None:
        self.client.stop_instances(InstanceIds=[instance])

    def tag(self, instance: str, role: str) -> None:
        """Give an instance another value of the tag that the inventory goes by."""
        self.client.create_tags(Resources=[instance], Tags=[{"Key": TAG, "Value": role}])


@contextmanager
def ec2():
    """Serve an empty EC2 while the block runs, in a thread: it cannot outlive this process."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield EC2(f"http://{host}:{port}")
    finally:
        server.stop()
