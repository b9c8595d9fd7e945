from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("volumes", "0007_forgotten")]

    operations = [
        migrations.AddField(
            model_name="replica",
            name="tried_damage_count",
            field=models.BigIntegerField(
                default=0,
                editable=False,
                help_text="Damage that the last opening knew of, less what scrubs have missed since: not tried again "
                "at once.",
            ),
        ),
    ]
