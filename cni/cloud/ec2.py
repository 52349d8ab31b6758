"""EC2 through boto3: answers a Call with a Reply or a CallError."""
