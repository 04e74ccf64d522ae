"""Uses S3 by boto3, which knows of no proxy: its key's id is a placeholder, and its secret is nobody's. Prints what came of it."""

import hashlib
import io
import json
import sys
import tempfile

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

base, placeholder = sys.argv[1:3]
# Whoever comes through a proxy has said there who it is: what it shows as its key is nobody's.
by_proxy = len(sys.argv) > 3


def client(key):
    return boto3.client(
        "s3",
        endpoint_url=base,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key="not-a-secret-at-all",
        config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}),
    )


s3 = client(placeholder)
told = {}


def refused(ask):
    try:
        ask()
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return [status, error.response["Error"]["Code"]]
    return "it was not refused"


s3.create_bucket(Bucket="toy")
key = "notes/a b+c=ü,(1).txt"
s3.put_object(Bucket="toy", Key=key, Body=b"hello", ContentType="text/plain", Metadata={"by": "crew  one"})
got = s3.get_object(Bucket="toy", Key=key)
told["got"] = [got["Body"].read().decode(), got["ContentType"], got["Metadata"]]
told["part"] = s3.get_object(Bucket="toy", Key=key, Range="bytes=1-3")["Body"].read().decode()
listed = s3.list_objects_v2(Bucket="toy", Prefix="notes/a b")
told["listed"] = [item["Key"] for item in listed["Contents"]]

# In parts, each read from a file, and back in ranges.
big = bytes(range(256)) * 48 * 1024
parts = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=3)
s3.upload_fileobj(io.BytesIO(big), "toy", "big", Config=parts)
with tempfile.TemporaryFile() as back:
    s3.download_fileobj("toy", "big", back, Config=parts)
    back.seek(0)
    told["big"] = hashlib.sha256(back.read()).hexdigest() == hashlib.sha256(big).hexdigest()
told["size"] = s3.head_object(Bucket="toy", Key="big")["ContentLength"]
s3.delete_object(Bucket="toy", Key="big")
told["gone"] = refused(lambda: s3.head_object(Bucket="toy", Key="big"))

told["elsewhere"] = refused(lambda: s3.get_object(Bucket="other", Key="x"))
told["acl"] = refused(lambda: s3.put_object_acl(Bucket="toy", Key=key, ACL="public-read"))
told["many"] = refused(lambda: s3.delete_objects(Bucket="toy", Delete={"Objects": [{"Key": key}]}))
told["copy"] = refused(lambda: s3.copy_object(Bucket="toy", Key="copy", CopySource="other/x"))
if not by_proxy:
    told["unknown"] = refused(lambda: client("AKIAIOSFODNN7EXAMPLE").get_object(Bucket="toy", Key=key))
print(json.dumps(told))
